"""The GPUs of this machine, as NVML reports them, and what processes use of them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import AbsentGpuError, NoGpuError
from ...sentences import paragraph, say
from .._places import counts_as_driver
from ._contexts import measured_contexts
from ._gpu import Gpu
from ._simulated import parse_simulation

__all__ = ["WAY_OUT", "Inventory", "OpenedGpus", "ProcessUse", "all_use", "inventory", "real_use"]

#: What to do on a machine without a GPU.
WAY_OUT = say("way-out")
#: Which GPUs this server may use, as CUDA reads it.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Seconds that samples of utilisation count: drivers keep those of programs that have long ended.
_RECENT = 5.0


@dataclass(frozen=True)
class Inventory:
    """What there is to share out.

    Attributes
    ----------
    driver: version of NVIDIA's driver; None for simulated GPUs.
    simulation: the text that describes simulated GPUs; empty for real ones.
    troubles: sentences about GPUs that are not offered.
    in_use: bytes by uuid that programs have of each whole GPU, whoever they are.
    numbered: CUDA counts the GPUs as NVML does, where it is told to go by their place on the bus.
    contexts: bytes by uuid that CUDA's context was seen to take of whole GPUs.
    """

    gpus: tuple[Gpu, ...]
    driver: str | None = None
    simulation: str = ""
    troubles: tuple[str, ...] = ()
    in_use: Mapping[str, int] = field(default_factory=dict)
    numbered: bool = False
    contexts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessUse:
    """Bytes of GPU memory of one process by device, and its utilisation where it is known."""

    used: Mapping[str, int]
    utilization: float | None


@dataclass(frozen=True)
class OpenedGpus:
    """What one process has of GPUs: bytes by uuid, None where not told, and whether it draws."""

    used: Mapping[str, int | None]
    draws: bool


def inventory(simulation: str | None = None, environ: Mapping[str, str] = os.environ) -> Inventory:
    """Look up the GPUs. Blocks for as long as the driver takes.

    Each GPU is asked by itself: one that does not answer is left out. So are those that the
    environment keeps from this server: they are somebody else's.

    Parameters
    ----------
    simulation: describes GPUs to simulate; no real one is looked up then.
    environ: of this server.

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
        troubles: list[str] = []
        in_use: dict[str, int] = {}
        number = nvml.nvmlDeviceGetCount()
        for index in range(number):
            try:
                found = _gpus_of(nvml, index)
                in_use |= _in_use(nvml, found)
            except nvml.NVMLError as error:
                troubles.append(_trouble(nvml, index, error))
                continue
            gpus += found
    if not gpus:
        why = paragraph(*troubles) or say("driver-sees-none")
        raise AbsentGpuError(paragraph(why, WAY_OUT))
    allowed = _visible(gpus, environ.get(_VISIBLE))
    if not allowed:
        hidden = say("none-visible", name=_VISIBLE, value=repr(environ.get(_VISIBLE)))
        raise AbsentGpuError(paragraph(hidden, WAY_OUT))
    # CUDA counts neither what is lost nor a GPU that is to be split, and instances apart.
    numbered = len(gpus) == number and not any(gpu.profile for gpu in gpus)
    return Inventory(
        tuple(allowed),
        driver,
        troubles=tuple(troubles),
        in_use=in_use,
        numbered=numbered,
        contexts=measured_contexts(allowed, driver),
    )


def _trouble(nvml: Any, index: int, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_NotSupported):
        return say("gpu-without-memory", index=index)
    return say("gpu-silent", index=index, cause=error)


def _in_use(nvml: Any, gpus: Collection[Gpu]) -> dict[str, int]:
    """Bytes that are in use of whole GPUs, the driver's own left out."""
    found = {}
    for gpu in gpus:
        if gpu.profile is None:
            info = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
            found[gpu.uuid] = max(0, gpu.memory_bytes - int(info.free))
    return found


def _visible(gpus: list[Gpu], text: str | None) -> list[Gpu]:
    """Those that CUDA would show to this server: by number or by how the UUID begins.

    What comes after a name that means none of them is not seen, as CUDA has it.
    """
    if text is None:
        return gpus
    found: list[Gpu] = []
    for name in (part.strip() for part in text.split(",")):
        if name.isdigit():
            named = [gpu for gpu in gpus if gpu.index == int(name)]
        else:
            named = [gpu for gpu in gpus if name and name in (gpu.uuid, gpu.parent)]
            named = named or [gpu for gpu in gpus if name and gpu.uuid.startswith(name)]
        if not named:
            break
        found += [gpu for gpu in named if gpu not in found]
    return sorted(found, key=gpus.index)


def real_use(gpus: Collection[Gpu], pids: Collection[int]) -> dict[int, ProcessUse]:
    """What processes use of real GPUs. Blocks for as long as the driver takes.

    A process that the driver does not list, or whose memory it does not tell, is left out: that
    is not known, which is not the same as nothing. A process that has not opened a GPU yet is
    listed by none. In a container with process numbers of its own nothing is known of any.

    Raises
    ------
    NoGpuError: the driver is gone.
    """
    used: dict[int, dict[str, int]] = {}
    busy: dict[int, float] = {}
    unknown: set[int] = set()
    if not gpus or not counts_as_driver():
        return {}
    with _nvml() as nvml:
        for gpu in gpus:
            with suppress(nvml.NVMLError):  # of one that is lost nothing is known; others answer
                handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
                for process, _ in _processes(nvml, handle):
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


def all_use(gpus: Collection[Gpu]) -> dict[int, OpenedGpus]:
    """What all processes have of real GPUs, those that have opened one and use nothing left out.

    Blocks, and knows nothing in a container, as :func:`real_use`.

    Raises
    ------
    NoGpuError: the driver is gone.
    """
    found: dict[int, dict[str, int | None]] = {}
    drawing: set[int] = set()
    if not gpus or not counts_as_driver():
        return {}
    with _nvml() as nvml:
        for gpu in gpus:
            with suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
                for process, draws in _processes(nvml, handle):
                    if draws:
                        drawing.add(process.pid)
                    if process.usedGpuMemory != 0:
                        row, told = found.setdefault(process.pid, {}), process.usedGpuMemory
                        row[gpu.uuid] = None if told is None else int(told)
    return {pid: OpenedGpus(row, pid in drawing) for pid, row in found.items()}


def certain_use(gpus: Collection[Gpu], pids: Collection[int]) -> dict[str, int] | None:
    """Bytes by uuid that processes use together; None where it is not known of each of them.

    A process that no GPU lists uses nothing, as long as what each lists explains what is in use of
    it. Blocks for as long as the driver takes.

    Raises
    ------
    NoGpuError: the driver is gone.
    """
    total: dict[str, int] = {}
    if not gpus or not counts_as_driver():
        return None
    with _nvml() as nvml:
        for gpu in gpus:
            try:
                used = _all_processes(nvml, gpu)
            except (nvml.NVMLError, _too_old(nvml)):
                return None
            if used is None:
                return None
            total[gpu.uuid] = sum(used[pid] for pid in used.keys() & set(pids))
    return total


def _all_processes(nvml: Any, gpu: Gpu) -> dict[int, int] | None:
    """Bytes of a GPU by process; None where the driver does not tell of all of them."""
    handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    listed = list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    with suppress(nvml.NVMLError_NotSupported):  # it draws nothing
        listed += nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    used: dict[int, int] = {}
    for process in listed:
        if process.usedGpuMemory is None:
            return None
        used[process.pid] = max(used.get(process.pid, 0), int(process.usedGpuMemory))
    in_use = gpu.memory_bytes - int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
    return used if in_use - sum(used.values()) <= gpu.little_bytes else None


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


def _processes(nvml: Any, handle: Any) -> Iterator[tuple[Any, bool]]:
    """What the driver tells of each process, and whether it draws. Some do both."""
    for ask, draws in (
        (nvml.nvmlDeviceGetComputeRunningProcesses, False),
        (nvml.nvmlDeviceGetGraphicsRunningProcesses, True),
    ):
        with suppress(nvml.NVMLError, _too_old(nvml)):
            yield from ((process, draws) for process in ask(handle))


def _too_old(nvml: Any) -> type[Exception]:
    """The binding says in a way of its own that a driver is too old for it."""
    found: type[Exception] = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
    return found


def _utilizations(nvml: Any, handle: Any) -> Iterator[tuple[int, float]]:
    """Pid and share of time, 0 to 1; nothing where the driver does not tell, as under MIG.

    Drivers give what they still remember, and now and then a number that can be no share.
    """
    since = int((time.time() - _RECENT) * 1e6)
    with suppress(nvml.NVMLError, AttributeError):
        for sample in nvml.nvmlDeviceGetProcessUtilization(handle, since):
            if int(sample.timeStamp) > since and int(sample.smUtil) <= 100:
                yield int(sample.pid), int(sample.smUtil) / 100


@contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound as error:
        raise AbsentGpuError(paragraph(say("no-driver-library"), WAY_OUT)) from error
    except pynvml.NVMLError_DriverNotLoaded as error:
        raise AbsentGpuError(paragraph(say("driver-not-loaded"), WAY_OUT)) from error
    except pynvml.NVMLError_LibRmVersionMismatch as error:
        raise NoGpuError(say("driver-updated")) from error
    except pynvml.NVMLError as error:
        raise NoGpuError(paragraph(say("driver-not-asked", cause=error), WAY_OUT)) from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NoGpuError(say("driver-silent", cause=error)) from error
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
