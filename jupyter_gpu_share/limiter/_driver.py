"""The driver's limits of GPU memory for control groups, through NVIDIA's own binding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DriverError", "clear", "granted", "limit", "memory"]

_MIB = 2**20
#: The driver may round a limit up by less than this.
_ROUNDING = 256 * _MIB


class DriverError(Exception):
    """A sentence about a limit that the driver does not keep."""


def memory() -> dict[str, int]:
    """Bytes by uuid of all GPUs for which there can be limits: those that are not split by MIG."""
    with _nvml() as nvml:
        return {uuid: gpu.memory_bytes for uuid, gpu in _gpus(nvml).items()}


def limit(group: Path, wanted: Mapping[str, int]) -> None:
    """Let processes of a group have so many bytes of each GPU, and nothing of those not named.

    Raises
    ------
    DriverError: the driver has no such limits, or has not taken one. They are as they were, where
        the driver takes that.
    """
    with _nvml() as nvml:
        gpus = _gpus(nvml)
        if missing := sorted(wanted.keys() - gpus.keys()):
            raise DriverError(f"There is no GPU {missing[0]} whose memory the driver could limit.")
        before = {uuid: _get(nvml, gpu, group) for uuid, gpu in gpus.items()}
        try:
            for uuid, gpu in gpus.items():
                amount = wanted.get(uuid, 0)
                _set(nvml, gpu, group, amount)
                if _get(nvml, gpu, group) >= amount + _ROUNDING:
                    raise DriverError(f"NVIDIA's driver has not taken the limit of GPU {uuid}.")
        except BaseException:
            for uuid, gpu in gpus.items():
                with suppress(nvml.NVMLError):
                    _set(nvml, gpu, group, before[uuid])
            raise


def granted(groups: Iterable[Path]) -> dict[str, int]:
    """Bytes by uuid that groups may have together; a GPU without a limit counts as a whole."""
    with _nvml() as nvml:
        gpus, paths = _gpus(nvml), list(groups)
        return {
            uuid: sum(min(_get(nvml, gpu, path), gpu.memory_bytes) for path in paths)
            for uuid, gpu in gpus.items()
        }


def clear(group: Path) -> None:
    """Take the limits away, before the group is removed.

    Removing it does the same, but for what the driver has noted down in groups around it.
    """
    with _nvml() as nvml:
        for gpu in _gpus(nvml).values():
            _set(nvml, gpu, group, int(nvml.NVML_DEVICE_MEMORY_LIMIT_MAX))


@dataclass(frozen=True)
class _Gpu:
    handle: Any
    memory_bytes: int


def _gpus(nvml: Any) -> dict[str, _Gpu]:
    """By uuid. One that does not answer is left out: nobody has memory there."""
    found = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
            if not _is_split(nvml, handle):
                uuid = nvml.nvmlDeviceGetUUID(handle)
                name = uuid if isinstance(uuid, str) else uuid.decode()
                found[name] = _Gpu(handle, int(info.total) - int(info.reserved))
    return found


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError_NotSupported:  # it cannot be split
        return False


def _set(nvml: Any, gpu: _Gpu, group: Path, hard: int) -> None:
    # No memory is promised to it (the soft limit): the ledger sees to that.
    wanted = nvml.c_nvmlSetMemoryLimits_v1_t(str(group).encode(), 0, hard)
    nvml.nvmlDeviceSetMemoryLimits_v1(gpu.handle, wanted)


def _get(nvml: Any, gpu: _Gpu, group: Path) -> int:
    told = nvml.c_nvmlGetMemoryLimits_v1_t(str(group).encode())
    nvml.nvmlDeviceGetMemoryLimits_v1(gpu.handle, told)
    return int(told.hardLimit)


@contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    if not hasattr(pynvml, "nvmlDeviceSetMemoryLimits_v1"):
        raise DriverError("The package nvidia-ml-py is too old for this: install 13.615 or newer.")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DriverError(f"NVIDIA's driver cannot be asked: {error}.") from error
    try:
        yield pynvml
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported) as error:
        raise DriverError(
            "NVIDIA's driver keeps no limits of memory for control groups: that needs driver 615 "
            "or newer."
        ) from error
    except pynvml.NVMLError as error:
        raise DriverError(f"NVIDIA's driver has refused a limit of memory: {error}.") from error
    finally:
        pynvml.nvmlShutdown()
