"""How a share is enforced on this machine: the environment of a kernel, and its worth."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

from ...allocations import Isolation
from ...kernel_side import CLOUDPICKLE, cloudpickle
from .._caps import framework_caps
from .._processes import CLAIM_VARIABLE
from ._contexts import CONTEXT_VARIABLE
from ._gpu import Gpu

__all__ = ["MpsStatus", "environment", "mps_status", "without_share"]

_MIB = 2**20
#: What ``CUDA_VISIBLE_DEVICES`` is told at first: a cell may set it to what is not of the share.
_VISIBLE_TOLD = "JUPYTER_GPU_SHARE_VISIBLE"
_MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
#: What a kernel is told of its share. The server may run inside of a kernel with another one.
_TOLD = frozenset(
    {
        "JUPYTER_GPU_SHARE_UUID",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES",
        "JUPYTER_GPU_SHARE_FRACTION",
        "JUPYTER_GPU_SHARE_ISOLATION",
        "JUPYTER_GPU_SHARE_CAP_BYTES",
        _VISIBLE_TOLD,
        CONTEXT_VARIABLE,
        "JUPYTER_GPU_SHARE_SIMULATED_DIR",
        "JUPYTER_GPU_SHARE_SIMULATED_BYTES",
        CLAIM_VARIABLE,
    }
)
_MPS_DEFAULT = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's daemon puts it


@dataclass(frozen=True)
class MpsStatus:
    """Whether NVIDIA's MPS control daemon runs, where its pipes are, and a word about it.

    ``avoided``: it runs for others, and kernels are to find none.
    """

    running: bool
    pipes: str = ""
    note: str = ""
    avoided: bool = False

    @classmethod
    def absent(cls, *, avoided: bool = False) -> MpsStatus:
        """No MPS for kernels."""
        return cls(False, note="not used (LocalEngine.mps is off)", avoided=avoided)


def mps_status(environ: Mapping[str, str] = os.environ) -> MpsStatus:
    """Look whether the MPS control daemon answers. Blocks for a moment."""
    pipes = environ.get(_MPS_PIPES, _MPS_DEFAULT)
    control = Path(pipes) / "control"
    if not control.exists():
        return MpsStatus(False, pipes, "its control daemon does not run")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(control))
        except OSError as error:
            return MpsStatus(False, pipes, f"its control daemon does not answer: {error.strerror}")
    return MpsStatus(True, pipes, "its control daemon runs")


def without_share(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what it says of a share, to which :func:`environment` adds."""
    return {name: value for name, value in env.items() if name not in _TOLD}


def environment(
    *,
    memory_bytes: int,
    fraction: Fraction,
    gpus: Sequence[Gpu],
    language: str,
    mps: MpsStatus,
    kernel_side: Path,
    token: str,
    simulated_dir: Path,
    base: Mapping[str, str],
    numbered: bool = False,
    contexts: Mapping[str, int] | None = None,
    context_files: Sequence[Path] = (),
    limited: bool = False,
) -> tuple[dict[str, str], Isolation]:
    """What to add to :func:`without_share` for a kernel, and the isolation that this gives.

    Parameters
    ----------
    memory_bytes, fraction: of each GPU in ``gpus``.
    base: the environment so far. What the user set in it is kept where it asks for less.
    numbered: CUDA counts the GPUs as NVML does. Libraries that read the number of a whole GPU can
        then do so; many know nothing else.
    contexts: bytes by uuid that CUDA's context was seen to take.
    context_files: where the kernel notes down what it takes, of each GPU.
    limited: the driver keeps limits of memory, through a service of root's.
    """
    added = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(kernel_side), base.get("PYTHONPATH")])),
        CLOUDPICKLE: str(cloudpickle()),
    }
    if not gpus:
        # Without a share no GPU is visible: using one by accident would be using somebody's.
        added |= {
            "CUDA_VISIBLE_DEVICES": "",
            _VISIBLE_TOLD: "",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0",
        }
        return added, Isolation.NONE
    uuids = ",".join(gpu.uuid for gpu in gpus)
    simulated = any(gpu.simulated for gpu in gpus)
    isolation = _isolation(gpus, memory_bytes, language, mps, limited)
    visible = "" if simulated else _visible(gpus, isolation, numbered)
    added |= {
        "JUPYTER_GPU_SHARE_UUID": uuids,
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(memory_bytes),
        "JUPYTER_GPU_SHARE_FRACTION": str(fraction),
        "JUPYTER_GPU_SHARE_ISOLATION": isolation.value,
        CLAIM_VARIABLE: token,
        "CUDA_VISIBLE_DEVICES": visible,
        _VISIBLE_TOLD: visible,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if simulated:
        added["JUPYTER_GPU_SHARE_SIMULATED_DIR"] = str(simulated_dir)
        added["JUPYTER_GPU_SHARE_SIMULATED_BYTES"] = ",".join(str(g.memory_bytes) for g in gpus)
        return added, isolation
    if mps.avoided:
        # CUDA looks for a daemon at its usual place by itself, and would run through it.
        added[_MPS_PIPES] = str(kernel_side / "no-mps")
    if isolation is Isolation.MPS:
        added |= _mps_limits(memory_bytes, fraction, len(gpus), mps)
    if any(memory_bytes < gpu.memory_bytes for gpu in gpus):
        # Some frameworks count a part of whichever GPU: it is that of the largest.
        part = min(Fraction(memory_bytes, gpu.memory_bytes) for gpu in gpus)
        seen = [(contexts or {}).get(gpu.uuid) for gpu in gpus]
        known = [amount for amount in seen if amount is not None]
        measured = max(known) if len(known) == len(gpus) else None
        added |= framework_caps(memory_bytes, min(part, fraction), base, measured)
        if context_files:
            added[CONTEXT_VARIABLE] = os.pathsep.join(map(str, context_files))
    return added, isolation


def _visible(gpus: Sequence[Gpu], isolation: Isolation, numbered: bool) -> str:
    """How CUDA is told of the GPUs. A daemon of MPS counts in its own way."""
    if numbered and isolation is not Isolation.MPS:
        return ",".join(str(gpu.index) for gpu in gpus)
    return ",".join(gpu.uuid for gpu in gpus)


def _isolation(
    gpus: Sequence[Gpu], memory_bytes: int, language: str, mps: MpsStatus, limited: bool
) -> Isolation:
    """What truly holds the kernel to its share.

    A whole GPU has no neighbour of ours and needs no cap, but nothing keeps other programs off it
    either: it is not called ``hardware``.
    """
    if all(gpu.profile for gpu in gpus):
        return Isolation.HARDWARE if not gpus[0].simulated else Isolation.FRAMEWORK
    if limited and not gpus[0].simulated:
        return Isolation.DRIVER
    if mps.running and not gpus[0].simulated:
        return Isolation.MPS
    if all(memory_bytes >= gpu.memory_bytes for gpu in gpus):
        return Isolation.NONE
    return Isolation.FRAMEWORK if language.lower().startswith("python") else Isolation.NONE


def _mps_limits(
    memory_bytes: int, fraction: Fraction, number: int, mps: MpsStatus
) -> dict[str, str]:
    """Devices are numbered as the kernel sees them."""
    limits = ",".join(f"{device}={memory_bytes // _MIB}M" for device in range(number))
    return {
        _MPS_PIPES: mps.pipes,
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": limits,
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(max(1, ceil(fraction * 100))),
    }
