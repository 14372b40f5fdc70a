"""What ``doctor`` looks at: the engine, what is installed, and the servers that run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpecManager

from .._configuration import from_files
from .._version import __version__
from ..engines.base import Finding
from ..errors import AbsentGpuError, GpuShareError
from ..server._default import DEFAULT_PROVISIONER, PROVISIONER, chosen_elsewhere, has_gpus
from ._examine_page import about_page
from ._servers import Server, ask, name_of, running_servers

if TYPE_CHECKING:
    from traitlets.config import Config

    from ..runtime import Runtime

__all__ = ["examine"]

_ENCRYPTS = (7, 3)
_AGAIN = f"{sys.executable} -m pip install --force-reinstall --no-deps jupyter-gpu-share"
_LOOK_AROUND = "To look around: JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB jupyter lab"


async def examine(runtime: Runtime) -> AsyncIterator[Finding]:
    """All findings, in the order in which they are shown."""
    config = from_files()
    gpus = has_gpus(config)
    told = set()
    for finding in await runtime.diagnose():
        told.add(finding.what)
        yield finding
    if gpus is None:
        try:
            await runtime.capacity()
        except AbsentGpuError:
            gpus = False
        except GpuShareError:
            pass  # told above
    yield _provisioner()
    yield _extension()
    for finding in (*_kernels(config, gpus), *about_page()):
        yield finding
    # In a thread: each server may take seconds.
    for finding in await asyncio.to_thread(lambda: list(_servers(told))):
        yield finding


def _provisioner() -> Finding:
    found = entry_points(group="jupyter_client.kernel_provisioners", name=PROVISIONER)
    if list(found):
        return Finding("ok", "Jupyter finds the kernel provisioner.")
    return Finding("error", "Jupyter does not find the kernel provisioner.", _AGAIN)


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
        "The server extension is not enabled: Jupyter servers give no shares and show none.",
        "jupyter server extension enable jupyter_gpu_share",
    )


def _kernels(config: Config, gpus: bool | None) -> Iterator[Finding]:
    """Which kernels start, and which of them on a share: of servers, and of programs."""
    manager = KernelSpecManager()
    folders, specs = manager.find_kernel_specs(), manager.get_all_specs()
    yield _ipykernel() if specs else _no_kernelspec()
    for name in sorted(folders):
        if why := _why_it_cannot_start(specs.get(name)):
            yield Finding(
                "warning", f"The kernelspec {name} {why}.", f"jupyter kernelspec remove {name}"
            )
    yield _default(config, gpus)
    stanzas = {
        name: entry["spec"].get("metadata", {}).get("kernel_provisioner", {})
        for name, entry in specs.items()
    }
    names = [name for name, one in stanzas.items() if one.get("provisioner_name") == PROVISIONER]
    if names:
        yield Finding("ok", f"Kernelspecs with a size: {', '.join(sorted(names))}.")
    elif specs and os.environ.get(DEFAULT_PROVISIONER) != PROVISIONER:
        yield Finding(
            "note",
            "No kernelspec has a size. Programs that start kernels without a Jupyter server, such "
            f"as papermill, need one, or {DEFAULT_PROVISIONER}={PROVISIONER} in their environment.",
            "jupyter gpu-share install --user",
        )


def _no_kernelspec() -> Finding:
    return Finding("error", "There is no kernelspec: no kernel can start.", "pip install ipykernel")


def _why_it_cannot_start(entry: dict[str, Any] | None) -> str | None:
    """What is wrong with a kernelspec; None where nothing is seen."""
    if entry is None:
        return "cannot be read"
    program = (entry["spec"].get("argv") or [""])[0]
    if Path(program).is_absolute() and not Path(program).exists():
        return f"starts a program that is not there: {program}"
    return None


def _default(config: Config, gpus: bool | None) -> Finding:
    """Whether a server starts the kernels of every kernelspec on a share."""
    elsewhere = chosen_elsewhere(config)
    if elsewhere is not None and PROVISIONER in elsewhere:
        return Finding("ok", f"Kernels of every kernelspec start on a share ({elsewhere}).")
    if elsewhere is not None:
        return Finding(
            "note",
            f"{elsewhere} chooses how kernels start: without a share.",
            "Remove that setting, or choose gpu-share-provisioner.",
        )
    if not config.get("GpuShareApp", {}).get("all_kernels", True):
        return Finding(
            "note",
            "Jupyter servers give a share only to kernels whose kernelspec has a size.",
            "c.GpuShareApp.all_kernels = True",
        )
    if gpus is False:
        return Finding(
            "note",
            "There is no GPU here: Jupyter servers start kernels as without this package.",
            _LOOK_AROUND,
        )
    return Finding("ok", "Jupyter servers start the kernels of every kernelspec on a share.")


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


def _servers(told: Collection[str]) -> Iterator[Finding]:
    """The user's Jupyter servers: whether they give shares, by their own word.

    Parameters
    ----------
    told: what was said already.
    """
    servers = list(running_servers())
    if not servers:
        yield Finding("ok", "No Jupyter server of yours runs.")
    for server in servers:
        yield _server(server, told)


def _server(server: Server, told: Collection[str]) -> Finding:
    name = name_of(server)
    try:
        status = ask(server, "GET", "gpu-share/status")
        specs = ask(server, "GET", "gpu-share/sizes")["kernelspecs"]
    except GpuShareError as error:
        return Finding(
            "warning", str(error), "Start that server again; `jupyter server list` shows it."
        )
    if status["version"] != __version__:
        return Finding(
            "warning",
            f"{name} runs version {status['version']}; {__version__} is installed.",
            "Start that server again.",
        )
    if status["problem"] in told:
        what = f"{name} gives no shares, for the reason above."
        return Finding("note", what, "Start that server again when this is mended.")
    if status["problem"] or not specs:
        return Finding(
            "note",
            f"{name} gives no shares. {status['problem'] or ''}".strip(),
            "Start that server again when this is mended.",
        )
    return Finding("ok", f"{name} gives shares to kernels of {', '.join(specs)}.")
