"""What ``doctor`` says about this machine, in words with the way to mend it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import AbsentGpuError, GpuShareError, LedgerError
from ...size import format_bytes
from .._caps import usual_context
from .._places import counts_as_driver
from ..base import Finding
from ._enforcement import MpsStatus
from ._gpu import Gpu
from ._inventory import WAY_OUT, Inventory
from ._ledger import Claim

__all__ = [
    "MPS_OF_SEVERAL",
    "about_broker",
    "about_contexts",
    "about_gpus",
    "about_hub",
    "about_ledger",
    "about_mps",
    "about_no_broker",
    "about_no_gpu",
    "about_no_ledger",
    "about_others",
    "about_unknown",
    "unknown_holder",
]


def about_gpus(found: Inventory) -> list[Finding]:
    """A line for each GPU."""
    lines = []
    if found.simulation:
        lines.append(
            Finding(
                "note",
                f"GPUs are simulated ({found.simulation}); no real one is used.",
                "Unset JUPYTER_GPU_SHARE_SIMULATE (or LocalEngine.simulate) to use real ones.",
            )
        )
    else:
        lines.append(Finding("ok", f"NVIDIA driver {found.driver} answers."))
    for gpu in found.gpus:
        kind = f"MIG {gpu.profile} of GPU {gpu.index}" if gpu.profile else f"GPU {gpu.index}"
        lines.append(Finding("ok", f"{kind}: {gpu.model}, {format_bytes(gpu.memory_bytes)}."))
    lines += [Finding("error", trouble, "nvidia-smi  # it says more") for trouble in found.troubles]
    if not found.simulation and not counts_as_driver():
        lines.append(
            Finding(
                "note",
                "This container has process numbers of its own, so what a kernel uses of a GPU is "
                "not known: no cell is stopped above its share.",
                "Start the container with the machine's process numbers (docker run --pid=host).",
            )
        )
    return lines


def about_no_gpu(error: GpuShareError, simulation: str = "") -> Finding:
    """Why there is no GPU to share, and what to do.

    Parameters
    ----------
    simulation: describes the GPUs to simulate; empty where real ones were looked for.
    """
    what = str(error).removesuffix(WAY_OUT).strip()
    if isinstance(error, AbsentGpuError):
        return Finding(
            "error",
            what,
            "Install NVIDIA's driver if there is a GPU. To look around without one: "
            "JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB jupyter lab",
        )
    if simulation:
        return Finding("error", what, "Correct or unset JUPYTER_GPU_SHARE_SIMULATE.")
    return Finding("error", what, "nvidia-smi  # it says more")


def about_no_ledger(path: Path, error: LedgerError) -> Finding:
    """Why it is not known who holds what, and what to do."""
    what, _, fix = str(error).partition("; ")
    fix = fix[:1].upper() + fix[1:] or f"Look at the file {path}."
    return Finding("error", f"{what.rstrip('.')}.", fix)


def about_others(gpus: Sequence[Gpu], others: Mapping[str, int]) -> list[Finding]:
    """A line for each GPU that is used without a share."""
    return [
        Finding(
            "note",
            f"{format_bytes(others[gpu.uuid])} of GPU {gpu.index} are used without a share, and "
            "not given out.",
            "See whose they are: nvidia-smi",
        )
        for gpu in gpus
        if gpu.uuid in others
    ]


#: Why no kernel gets a share there.
MPS_OF_SEVERAL = (
    "MPS runs here and serves one user at a time: kernels of the others would hang. Several users "
    "share this ledger, so end its daemon (echo quit | nvidia-cuda-mps-control), or set "
    'c.LocalEngine.mps = "off" where it is for other programs.'
)


def about_contexts(found: Inventory) -> list[Finding]:
    """What CUDA's context takes of each model, which frameworks do not count."""
    lines = {}
    for gpu in found.gpus:
        if gpu.profile is None and not gpu.simulated:
            seen = found.contexts.get(gpu.uuid)
            amount = format_bytes(usual_context(gpu.memory_bytes) if seen is None else seen)
            how = "measured" if seen is not None else "estimated until a kernel has been measured"
            lines[gpu.model] = f"CUDA's context takes {amount} of {gpu.model} ({how})."
    return [Finding("ok", line) for line in lines.values()]


def about_mps(status: MpsStatus, *, common: bool = False) -> Finding:
    """Whether memory limits are kept by MPS; ``common``: for several users."""
    if status.running and common:
        what, _, fix = MPS_OF_SEVERAL.partition(" Several users ")
        return Finding("error", what, "Several users " + fix)
    if status.running:
        return Finding("ok", "MPS runs: its server keeps kernels to their shares.")
    return Finding(
        "note",
        f"MPS: {status.note}. Only limits in the frameworks keep kernels to their shares.",
        "Start it as the user that owns the GPUs: nvidia-cuda-mps-control -d",
    )


def about_ledger(path: Path, claims: Sequence[Claim], *, common: bool) -> Finding:
    """Where the ledger is and what it says."""
    held = sum(claim.held for claim in claims)
    whose = "of several users" if common else "of this user"
    waiting = len(claims) - held
    return Finding("ok", f"Ledger {whose}: {held} shares held, {waiting} waiting ({path}).")


def about_hub(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """That a JupyterHub's users are held to nothing where no broker is."""
    if not environ.get("JUPYTERHUB_USER"):
        return []
    return [
        Finding(
            "warning",
            "This is a server of a JupyterHub, and no broker keeps this machine's shares: users "
            "set their own limits.",
            "Have the administrator start one: jupyter gpu-share broker",
        )
    ]


def about_broker(path: Path, user: str, claims: Sequence[Claim]) -> Finding:
    """That the machine's broker keeps the shares, and as whom it knows this user."""
    held = sum(claim.held for claim in claims)
    return Finding(
        "ok",
        f"The broker of this machine keeps the shares ({path}): {user} holds {held}, and "
        f"{len(claims) - held} wait.",
    )


def about_no_broker(error: GpuShareError) -> Finding:
    """That the machine's broker is away."""
    return Finding(
        "error",
        str(error).partition(". ")[0] + ".",
        "Have the administrator start it: systemctl start jupyter-gpu-share",
    )


def unknown_holder(claim: Claim) -> str:
    """A sentence about a claim of which nobody here can tell whether its holder lives."""
    return (
        f"It belongs to {claim.place}. Whether that still runs cannot be seen here; "
        "where it has ended, `jupyter gpu-share doctor` says how the share is freed."
    )


def about_unknown(path: Path, claims: Sequence[Claim]) -> list[Finding]:
    """A line for each of them, with the way to free it."""
    return [
        Finding(
            "note",
            f"A share of {claim.size} is {'held' if claim.held else 'waited for'} from "
            f"{claim.place}: kernel {claim.kernel_id}"
            + "".join(
                f", {what} {claim.info[name]}"
                for what, name in (("notebook", "path"), ("user", "user"))
                if claim.info.get(name)
            )
            + ". Whether it still runs cannot be seen here.",
            f"Once it has ended, free it: python -m jupyter_gpu_share.engines.local "
            f"'{path}' {claim.token}",
        )
        for claim in claims
        if claim.unknown
    ]
