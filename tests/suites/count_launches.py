"""A pytest plugin for other projects' suites: proves that our provisioner ran their kernels."""

from __future__ import annotations

from typing import Any

from jupyter_gpu_share.provisioner import GpuShareProvisioner

_launches = 0
_launch = GpuShareProvisioner.launch_kernel


async def _counted(self: GpuShareProvisioner, cmd: list[str], **kwargs: Any) -> Any:
    global _launches
    _launches += 1
    return await _launch(self, cmd, **kwargs)


GpuShareProvisioner.launch_kernel = _counted  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number, for the test that runs the suite."""
    terminalreporter.write_line(f"launches by GpuShareProvisioner: {_launches}")
