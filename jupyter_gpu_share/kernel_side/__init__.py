"""What runs in kernels: the standard library only, any Python from 3.8.

The engine puts this folder first on the ``PYTHONPATH`` of a kernel. Nothing of the server is
imported there, and the kernel's environment needs no package of ours.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["PATH"]

#: The folder for a kernel's ``PYTHONPATH``.
PATH = Path(__file__).parent
