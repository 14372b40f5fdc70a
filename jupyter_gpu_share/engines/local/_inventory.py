"""The GPUs of this machine, as NVML reports them, and what processes use of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ...errors import AbsentGpuError, NoGpuError
from ._gpu import Gpu
from ._simulated import parse_simulation

__all__ = ["WAY_OUT", "Inventory", "ProcessUse", "inventory", "real_use"]

#: What to do on a machine without a GPU.
WAY_OUT = (
    "Choose size 0 for a kernel without a GPU, or set JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB to "
    "simulate GPUs."
)


@dataclass(frozen=True)
class Inventory:
    """What there is to share out.

    Attributes
    ----------
    driver: version of NVIDIA's driver; None for simulated GPUs.
    simulation: the text that describes simulated GPUs; empty for real ones.
    """

    gpus: tuple[Gpu, ...]
    driver: str | None = None
    simulation: str = ""


@dataclass(frozen=True)
class ProcessUse:
    """Bytes of GPU memory of one process by device, and its utilisation where it is known."""

    used: Mapping[str, int]
    utilization: float | None


def inventory(simulation: str | None = None) -> Inventory:
    """Look up the GPUs. Blocks for as long as the driver takes.

    Parameters
    ----------
    simulation: describes GPUs to simulate; no real one is looked up then.

    Raises
    ------
    AbsentGpuError: there is none; says why and what to do.
    NoGpuError: the driver cannot be asked.
    """
    if simulation:
        return Inventory(parse_simulation(simulation), simulation=simulation)
    with _nvml() as nvml:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        gpus: list[Gpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            gpus += _gpus_of(nvml, index)
    if not gpus:
        raise AbsentGpuError(f"The NVIDIA driver is here but sees no GPU. {WAY_OUT}")
    return Inventory(tuple(gpus), driver=driver)


def real_use(gpus: Collection[Gpu], pids: Collection[int]) -> dict[int, ProcessUse]:
    """What processes use of real GPUs. Blocks for as long as the driver takes.

    A process that the driver does not list, or whose memory it does not tell, is left out: that
    is not known, which is not the same as nothing. A process that has not opened a GPU yet is
    listed by none.

    Raises
    ------
    NoGpuError: the driver is gone.
    """
    used: dict[int, dict[str, int]] = {}
    busy: dict[int, float] = {}
    unknown: set[int] = set()
    with _nvml() as nvml:
        for gpu in gpus:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            for process in _processes(nvml, handle):
                if process.pid not in pids:
                    continue
                if process.usedGpuMemory is None:
                    unknown.add(process.pid)
                else:
                    row = used.setdefault(process.pid, {})
                    row[gpu.uuid] = max(row.get(gpu.uuid, 0), int(process.usedGpuMemory))
            for pid, share in _utilizations(nvml, handle):
                busy[pid] = max(busy.get(pid, 0.0), share)
    return {pid: ProcessUse(row, busy.get(pid)) for pid, row in used.items() if pid not in unknown}


def _gpus_of(nvml: Any, index: int) -> list[Gpu]:
    """The GPU itself, or its MIG instances where it is split into some."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, model = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    if not _in_mig_mode(nvml, handle):
        return [Gpu(uuid, model, index, _memory(nvml, handle))]
    found = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError_NotFound):
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            name = _text(nvml.nvmlDeviceGetName(instance))
            found.append(
                Gpu(
                    uuid=_text(nvml.nvmlDeviceGetUUID(instance)),
                    model=model,
                    index=index,
                    memory_bytes=_memory(nvml, instance),
                    # Named like "NVIDIA A100-SXM4-80GB MIG 1g.10gb".
                    profile=name.rpartition(" MIG ")[2].strip().lower(),
                    parent=uuid,
                )
            )
    return found


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that cannot be split
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _memory(nvml: Any, handle: Any) -> int:
    """Bytes that processes can use: without what the driver keeps to itself, where it says so."""
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return int(info.total) - int(info.reserved)
    except (nvml.NVMLError, AttributeError):
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)


def _processes(nvml: Any, handle: Any) -> Iterator[Any]:
    for ask in (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        with suppress(nvml.NVMLError):
            yield from ask(handle)


def _utilizations(nvml: Any, handle: Any) -> Iterator[tuple[int, float]]:
    """Pid and share of time, 0 to 1; nothing where the driver does not tell, as under MIG."""
    with suppress(nvml.NVMLError, AttributeError):
        for sample in nvml.nvmlDeviceGetProcessUtilization(handle, 0):
            yield int(sample.pid), int(sample.smUtil) / 100


@contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound as error:
        raise AbsentGpuError(
            "No NVIDIA GPU was found on this machine: NVIDIA's library libnvidia-ml.so.1 is not "
            f"installed. {WAY_OUT}"
        ) from error
    except pynvml.NVMLError_DriverNotLoaded as error:
        raise AbsentGpuError(
            f"NVIDIA's driver is not loaded; load it (nvidia-smi says more). {WAY_OUT}"
        ) from error
    except pynvml.NVMLError as error:
        raise NoGpuError(f"NVIDIA's driver cannot be asked for GPUs: {error}. {WAY_OUT}") from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NoGpuError(f"NVIDIA's driver does not answer: {error}. Check nvidia-smi.") from error
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
