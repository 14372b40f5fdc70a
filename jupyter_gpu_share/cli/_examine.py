"""What ``doctor`` looks at besides the engine: whether Jupyter finds and uses this package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

from .._configuration import from_files
from ..engines.base import Finding
from ..server._default import PROVISIONER, chosen_elsewhere, may_have_gpus
from ._servers import running_servers

_ENCRYPTS = (7, 3)


def examine() -> Iterator[Finding]:
    """Findings about the installation."""
    yield _provisioner()
    yield _extension()
    yield from _kernelspecs()
    yield _ipykernel()
    servers = sum(1 for _ in running_servers())
    yield Finding("ok", f"{servers} Jupyter server{'' if servers == 1 else 's'} of yours run.")


def _provisioner() -> Finding:
    found = entry_points(group="jupyter_client.kernel_provisioners", name=PROVISIONER)
    if list(found):
        return Finding("ok", "Jupyter finds the kernel provisioner.")
    return Finding(
        "error",
        "Jupyter does not find the kernel provisioner.",
        f"{Path(sys.executable).name} -m pip install --force-reinstall jupyter-gpu-share",
    )


def _extension() -> Finding:
    from jupyter_core.paths import jupyter_config_path
    from jupyter_server.config_manager import BaseJSONConfigManager

    enabled: dict[str, Any] = {}
    for folder in reversed(jupyter_config_path()):
        section = BaseJSONConfigManager(config_dir=folder).get("jupyter_server_config")
        enabled.update(section.get("ServerApp", {}).get("jpserver_extensions", {}))
    if enabled.get("jupyter_gpu_share"):
        return Finding("ok", "The server extension is enabled.")
    return Finding(
        "warning",
        "The server extension is not enabled: no REST routes, no events.",
        "jupyter server extension enable jupyter_gpu_share",
    )


def _kernelspecs() -> Iterator[Finding]:
    """Which kernels start on a share: of servers, and of programs without one."""
    config = from_files()
    names = []
    for name, entry in KernelSpecManager().get_all_specs().items():
        stanza = entry["spec"].get("metadata", {}).get("kernel_provisioner", {})
        if stanza.get("provisioner_name") == PROVISIONER:
            names.append(name)
    elsewhere = chosen_elsewhere(config)
    if elsewhere is not None:
        yield Finding("note", f"Which kernels start on a share is chosen by {elsewhere}.")
    elif not config.get("GpuShareApp", {}).get("all_kernels", True):
        yield Finding(
            "note", "Jupyter servers give shares to the kernelspecs with a size only.",
            "c.GpuShareApp.all_kernels = True",
        )  # fmt: skip
    elif may_have_gpus(config):
        yield Finding("ok", "Jupyter servers start the kernels of every kernelspec on a share.")
    else:
        yield Finding(
            "note", "Jupyter servers start kernels without a share: there is no GPU here."
        )
    if names:
        yield Finding("ok", f"Kernelspecs with a size: {', '.join(sorted(names))}.")
    else:
        yield Finding(
            "note",
            "No kernelspec names a size; programs without a server need one.",
            "jupyter gpu-share install, or JUPYTER_DEFAULT_PROVISIONER_NAME=gpu-share-provisioner",
        )


def _ipykernel() -> Finding:
    try:
        text = version("ipykernel")
    except PackageNotFoundError:
        return Finding(
            "warning",
            "ipykernel is not installed beside the server; kernels of other environments work.",
            "pip install ipykernel",
        )
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers < _ENCRYPTS:
        return Finding(
            "warning",
            f"ipykernel {text} cannot encrypt its connections; clients are encrypted all the same.",
            "pip install 'ipykernel>=7.3'",
        )
    return Finding("ok", f"ipykernel {text} can encrypt its connections.")
