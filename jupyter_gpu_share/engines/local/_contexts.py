"""What CUDA's context takes of a GPU: kernels measure it, and it is kept by model and driver.

One small file for each, private to the user: ``{"version": 1, "bytes": …}``, the most that was
seen. Whoever removes it has it measured anew.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from ...size import Size, format_bytes
from ._gpu import Gpu
from ._simulated import slug

__all__ = ["CONTEXT_VARIABLE", "context_files", "measured_contexts", "too_small"]

#: Names the files to a kernel, in the order of its GPUs.
CONTEXT_VARIABLE = "JUPYTER_GPU_SHARE_CONTEXT_FILE"
_VERSION = 1
_MIB = 2**20
#: What a kernel can have measured; else the file was not written by one.
_LEAST, _MOST = 32 * _MIB, 2048 * _MIB


def context_files(gpus: Sequence[Gpu], driver: str | None) -> tuple[Path, ...]:
    """Where a kernel notes down what a context takes of each of its GPUs; empty: it does not.

    The folder is made. Not for simulated GPUs, nor for instances of MIG, which need no cap. Blocks
    on the disk.
    """
    if driver is None or not gpus or any(gpu.simulated or gpu.profile for gpu in gpus):
        return ()
    paths = tuple(_path(gpu.model, driver) for gpu in gpus)
    if any(os.pathsep in str(path) for path in paths):  # they could not be told apart
        return ()
    try:
        paths[0].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # the estimate stays
        return ()
    return paths


def measured_contexts(gpus: Sequence[Gpu], driver: str) -> dict[str, int]:
    """Bytes by uuid of whole GPUs on whose model one was measured. Blocks on the disk."""
    by_model: dict[str, int | None] = {}
    for gpu in gpus:
        if gpu.profile is None and gpu.model not in by_model:
            by_model[gpu.model] = _read(_path(gpu.model, driver))
    known = {gpu.uuid: by_model.get(gpu.model) for gpu in gpus if gpu.profile is None}
    return {uuid: amount for uuid, amount in known.items() if amount is not None}


def too_small(size: Size, gpus: Sequence[Gpu], contexts: Mapping[str, int]) -> str | None:
    """Why nothing can be done with ``size``: CUDA's context alone takes more. Pure."""
    if size.is_none or size.profile or not gpus:
        return None
    needs = [contexts.get(gpu.uuid, 0) for gpu in gpus]
    if any(size.bytes_of(gpu.memory_bytes) > need for gpu, need in zip(gpus, needs, strict=True)):
        return None
    return (
        f"{size} is too little to use a GPU with: CUDA itself takes {format_bytes(min(needs))}. "
        "Choose a larger size."
    )


def _path(model: str, driver: str) -> Path:
    folder = Path(jupyter_data_dir()) / "gpu-share" / "contexts"
    return folder / f"{slug(model)}-{slug(driver)}.json"


def _read(path: Path) -> int | None:
    """Bytes, from a file of this user's that nobody else can write."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(number, "rb") as file:
        info = os.fstat(number)
        private = info.st_uid == os.getuid() and not info.st_mode & 0o022
        if not stat.S_ISREG(info.st_mode) or not private:
            return None
        try:
            row = json.loads(file.read(1000))
            version, amount = row["version"], row["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
    sound = version == _VERSION and type(amount) is int and _LEAST <= amount <= _MOST
    return amount if sound else None
