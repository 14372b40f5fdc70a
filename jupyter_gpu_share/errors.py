"""The errors of this package.

Each text is one line in the words of the person at the notebook: what happened
and what to do. Jupyter shows it as it stands. The technical cause is chained.

::

    GpuShareError
    ├── SizeError            the text of a size cannot be understood
    │   ├── MoreThanOneGpu   a fraction above one GPU
    │   └── SizeNotAllowed   understood, but the administrator's rules exclude it
    ├── NoGpuError           no GPU here, or none that could ever hold the size
    │   └── AbsentGpuError   this machine has none at all
    ├── HeldError            a message could not be held for a waiting kernel
    ├── NotPossible          the kernel's state does not allow what was asked
    └── EngineError          the engine could not do its work
        ├── LedgerError      the record of who holds what cannot be used
        └── KernelStartError the share was there, the kernel did not come up
            └── CommandNotFoundError  its command does not exist (a FileNotFoundError too)
"""

from __future__ import annotations

__all__ = [
    "AbsentGpuError",
    "CommandNotFoundError",
    "EngineError",
    "GpuShareError",
    "HeldError",
    "KernelStartError",
    "LedgerError",
    "MoreThanOneGpu",
    "NoGpuError",
    "NotPossible",
    "SizeError",
    "SizeNotAllowed",
]


class GpuShareError(Exception):
    """Base of all errors that this package raises on purpose."""


class SizeError(GpuShareError, ValueError):
    """The text of a size cannot be understood."""


class MoreThanOneGpu(SizeError):  # noqa: N818
    """A fraction above one GPU; several GPUs are written with a count, as in ``2x1``."""


class SizeNotAllowed(SizeError):  # noqa: N818
    """The size is well formed, but the administrator's rules exclude it."""


class NoGpuError(GpuShareError):
    """There is no GPU here, or none that could ever hold the size."""


class AbsentGpuError(NoGpuError):
    """This machine has no GPU at all, as far as its driver knows."""


class HeldError(GpuShareError):
    """A message could not be held for a kernel that is not there yet."""


class NotPossible(GpuShareError):  # noqa: N818
    """The state of the kernel does not allow what was asked."""


class EngineError(GpuShareError):
    """The engine could not do its work."""


class LedgerError(EngineError):
    """The record of who holds which share cannot be read or written."""


class KernelStartError(EngineError):
    """The share was granted, but the kernel did not come up."""


class CommandNotFoundError(KernelStartError, FileNotFoundError):
    """The kernel's command does not exist. Callers of jupyter_client expect this as an OSError."""
