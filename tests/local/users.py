"""Numbers of users of a machine, whom nobody knows by name, and of a group of theirs."""

from __future__ import annotations

GROUP, ANN, BOB = 65510, 65501, 65502
