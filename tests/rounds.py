"""How often what can go wrong is made to, and from which seed."""

from __future__ import annotations

import os

#: Of all that is drawn by chance. ``JUPYTER_GPU_SHARE_FAULT_SEED`` sets another.
SEED = int(os.environ.get("JUPYTER_GPU_SHARE_FAULT_SEED", "20260301"))
#: Rounds of each fault, each at another random instant.
ROUNDS = int(os.environ.get("JUPYTER_GPU_SHARE_FAULT_ROUNDS", "1"))
