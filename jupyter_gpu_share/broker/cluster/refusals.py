"""Why the home of all users' kernels does not do what is asked. Each becomes a status of HTTP."""

from __future__ import annotations

from ...errors import GpuShareError

__all__ = ["Malformed", "NoKernel", "Refused"]


class Malformed(GpuShareError):  # noqa: N818
    """What is asked cannot be understood: 400."""


class NoKernel(GpuShareError):  # noqa: N818
    """Who asks has no such kernel: 404."""


class Refused(GpuShareError):  # noqa: N818
    """A rule does not allow it, somebody else has it, or it is not possible now: 409."""
