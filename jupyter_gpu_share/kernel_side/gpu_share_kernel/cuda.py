"""NVIDIA's process checkpoint: the memory and the state of CUDA move to the host, and back.

The process does it to itself, through the driver's own functions (``cuCheckpointProcess*``, since
CUDA 12.8), which the kernel's package ``cuda-bindings`` gives to Python. The steps and the states
in between are the driver's::

    RUNNING --lock--> LOCKED --checkpoint--> CHECKPOINTED --restore--> LOCKED --unlock--> RUNNING

In all but the first, calls to CUDA block, from whichever thread. See docs/checkpoint.md for what
of this was not run on a GPU.
"""

import gc
import importlib
import os
import platform
import re
import sys
import time

from gpu_share_kernel import caps, cuda_signs
from gpu_share_kernel import driver as own_driver

__all__ = ["BusyError", "hindrance", "resume", "vacate"]

_MIB = 2**20
#: CUDA's version that each kind of machine needs: on x86-64 driver 570, on Arm 595.
_OLDEST = {"x86_64": 12080, "aarch64": 13020}
#: Before this one (driver 575) a container has to see all GPUs of the machine.
_SOME_GPUS = 12090
_FUNCTIONS = ("GetState", "Lock", "Checkpoint", "Restore", "Unlock")
_DEVICES = "/dev"
_PCI = "/sys/bus/pci/drivers/nvidia"
_MODULE = "/proc/driver/nvidia/version"
#: Milliseconds for calls that are under way, and for work that the GPU has already got.
_PATIENCE = 10000
#: Bytes of the machine's memory that stay free for the kernel itself.
_SPARE = 256 * _MIB
#: Added to what was in use, where the GPU had as much.
_MARGIN = 64 * _MIB
#: A context alone takes more: so much has to become free where nobody tells what was in use.
_SEEN = 32 * _MIB
#: Seconds until what was moved has to be seen as free, and between two looks.
_FREE_PATIENCE, _FREE_INTERVAL = 10.0, 0.1

#: Bytes that a restore needs, by GPU, and the bytes that were moved; None: nothing is away.
_needed = None  # type: dict[str, int] | None
_moved = 0
#: Whether Python collected garbage before; None: it does as the user wants.
_collected = None  # type: bool | None


def hindrance():
    """Why this process cannot be checkpointed where it is, with what to do; empty: it can.

    What is not known counts as a hindrance. Nothing is changed by looking.
    """
    try:
        return _hindrance()
    except _StepError as snag:
        return str(snag)
    except Exception as error:
        return "It cannot be seen whether the GPU's memory can be moved (%s)." % _short(error)


def vacate():
    """Move what this process has on its GPUs to the machine's memory; the bytes of it.

    Where the driver does not tell them by process, they are the difference in what is free, which
    neighbours change too. Idempotent.

    Raises
    ------
    BusyError: the GPU is still at work. Nothing was moved.
    RuntimeError: it did not work, or the driver says that it did and the memory is not seen to be
        free. Everything is as before, unless the sentence says that the GPU's state is lost.
    """
    global _needed, _moved
    driver = _driver()
    state = _state(driver)
    if state == "CHECKPOINTED":
        return _moved
    if state not in ("RUNNING", "LOCKED"):
        raise RuntimeError(_bad_state(state))
    before = cuda_signs.devices(os.getpid())
    _hold_garbage()
    try:
        if state == "RUNNING":
            limit = driver.CUcheckpointLockArgs()
            limit.timeoutMs = _PATIENCE
            _do(driver, "Lock", limit)
        _do(driver, "Checkpoint")
        _make_sure_it_left(driver)
        _needed, _moved = _amounts(before, _freed(before))
    except _StepError as error:
        kind = BusyError if error.busy else RuntimeError
        raise kind("%s. %s" % (error, _undo(driver) or "Nothing has changed.")) from None
    except BaseException:  # an interrupt
        _undo(driver)
        raise
    return _moved


def resume():
    """Move it back. Nothing where it is there; a process that was left locked is unlocked.

    A probe allocation cannot be made: this process's own calls block until it is restored, and
    another one would need memory for a context of its own. The driver's count of free memory is
    looked at instead, since some drivers never restore a process after they once had no room.

    Raises
    ------
    RuntimeError: there is no room, or it did not work. It stays where it is.
    """
    global _needed, _moved
    try:
        driver = _driver()
        state = _state(driver)
    except _StepError:
        if _needed is None:  # it was never moved from here
            return
        raise
    if state not in ("RUNNING", "LOCKED", "CHECKPOINTED"):
        raise RuntimeError(_bad_state(state))
    if state == "CHECKPOINTED":
        _make_sure_of_room()
        try:
            _do(driver, "Restore")
        except _StepError as snag:
            raise RuntimeError("%s. %s" % (snag, _left(driver))) from None
    if state != "RUNNING":
        try:
            _do(driver, "Unlock")
        except _StepError as snag:
            back = state == "CHECKPOINTED" and _call(driver, "Checkpoint")[0] == "CUDA_SUCCESS"
            left = "It is off the GPU again." if back else _LOCKED
            raise RuntimeError("%s. %s" % (snag, left)) from None
    _needed, _moved = None, 0
    _let_garbage_go()


# -- the checks ------------------------------------------------------------------------------------


def _hindrance():
    driver = _driver()
    version, why = _too_old(driver)
    if why:
        return why
    # Before anything of the user's is looked at: in another state that might block.
    state = _state(driver)
    if state != "RUNNING":
        return _bad_state(state)
    if own_driver.is_wsl():
        return "NVIDIA's driver cannot checkpoint a process under WSL2."
    wanted = cuda_signs.uuids()
    hardware = os.environ.get("JUPYTER_GPU_SHARE_ISOLATION") == "hardware"
    if hardware or any(uuid.startswith("MIG-") for uuid in wanted):
        return (
            "NVIDIA's driver cannot checkpoint a process on a MIG instance; "
            "save what you need, or take a share of a GPU that is not split."
        )
    found = cuda_signs.mps()
    if found:
        return (
            "NVIDIA's driver cannot checkpoint a process that uses MPS, and %s; an administrator "
            "can turn MPS off." % found
        )
    if version < _SOME_GPUS and not _sees_all_gpus():
        return (
            "This driver can only checkpoint a process that sees all GPUs of the machine; "
            "ask an administrator for driver 575 or newer."
        )
    found = cuda_signs.elsewhere()
    if found:
        return (
            "This kernel uses a GPU that it has no share of (%s), where nobody keeps room for it; "
            "leave `CUDA_VISIBLE_DEVICES` as it is." % ", ".join(found[:1])
        )
    found = cuda_signs.communicators()
    if found:
        return "Memory that NCCL uses cannot be moved: %s." % found
    found = cuda_signs.managed_memory()
    if found:
        return "Managed memory cannot be moved: %s." % found
    pids = cuda_signs.children()
    if pids:
        return (
            "Child processes use the GPU, or may do so (%s); end them, for instance by closing "
            "the data loader%s." % (_few(pids), _compilers())
        )
    return _too_little_memory(wanted)


def _compilers():
    """How the processes of torch.compile are ended, where there are any."""
    if "torch._inductor.async_compile" not in sys.modules:
        return ""
    return ", or by `torch._inductor.async_compile.shutdown_compile_workers()`"


def _too_old(driver):
    code, version = _code(driver.cuDriverGetVersion)
    if code != "CUDA_SUCCESS":
        return 0, "The version of NVIDIA's driver cannot be read (%s)." % code
    machine = platform.machine()
    needed = _OLDEST.get(machine)
    if needed is None:
        return version, "NVIDIA's driver is not known to checkpoint processes on %s." % machine
    number = {12080: 570, 13020: 595}[needed]
    found = _module()
    if version >= needed and (found is None or found >= number):
        return version, ""
    what = "CUDA %s" % _dotted(version) if version < needed else "driver %d" % (found or 0)
    return version, (
        "NVIDIA's driver is too old to move the GPU's memory away (%s); ask an "
        "administrator for driver %d or newer." % (what, number)
    )


def _module():
    """The driver's number in the system's kernel; None where it is not told.

    Images that bring NVIDIA's package for compatibility have a newer library than that.
    """
    try:
        with open(_MODULE, errors="replace") as file:
            told = re.search(r"Kernel Module(?:\s+for\s+\S+)?\s+(\d+)\.", file.read())
    except OSError:
        return None
    return int(told.group(1)) if told else None


def _sees_all_gpus():
    """Whether this container has a device file for each GPU of the machine."""
    there = [name for name in os.listdir(_PCI) if ":" in name]
    files = [name for name in os.listdir(_DEVICES) if name[:6] == "nvidia" and name[6:].isdigit()]
    return len(files) >= len(there)


def _too_little_memory(wanted):
    rows = cuda_signs.devices(os.getpid())
    if rows is None:
        return (
            "The memory of the share's GPUs cannot be read from here, so nobody would know later "
            "whether there is room to move back."
        )
    granted = int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])
    needed = _in_use(rows, granted)
    free = cuda_signs.host_memory()
    if free is None:
        return "It cannot be read how much of the machine's memory this kernel may still take."
    if needed + _SPARE > free:  # what frameworks only keep is not carried along
        caps.empty_caches()
        needed = _in_use(cuda_signs.devices(os.getpid()) or rows, granted)
    if needed + _SPARE > free:
        return (
            "The machine's memory has no room for the %s on the GPU: %s are left for this kernel; "
            "free some, or ask for a higher limit." % (_text(needed), _text(free))
        )
    return ""


def _in_use(rows, granted):
    return sum(granted if used is None else used for used, _ in rows.values())


# -- the steps -------------------------------------------------------------------------------------

_RESTART = "The GPU's state is lost: restart the kernel."
_LOCKED = "Its calls to CUDA stay locked: try again, or restart the kernel."


class BusyError(RuntimeError):
    """The GPU did not finish in time what it had got."""


class _StepError(RuntimeError):
    """A step did not work; the text is a sentence, some of them without their full stop."""

    busy = False


def _driver():
    """NVIDIA's driver as its own Python package shows it."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
    except Exception as error:
        raise _StepError(
            "The package `cuda-bindings` (12.8 or newer) is needed in the kernel's environment to "
            "move the GPU's memory away (%s)." % _short(error)
        ) from None
    if not all(hasattr(driver, "cuCheckpointProcess" + name) for name in _FUNCTIONS):
        raise _StepError(
            "The package `cuda-bindings` in the kernel's environment is too old to move the GPU's "
            "memory away; install 12.8 or newer."
        )
    return driver


def _code(function, *args):
    """The name of what a function of the driver answers, and the value that it gives."""
    try:
        code, *values = function(*args)
    except Exception as error:  # not in this driver, or an answer that this package does not know
        return _short(error), None
    return getattr(code, "name", str(code)), (values[0] if values else None)


def _call(driver, step, *args):
    function = getattr(driver, "cuCheckpointProcess" + step)
    if step != "GetState" and not args:
        args = (None,)
    return _code(function, os.getpid(), *args)


def _state(driver):
    code, state = _call(driver, "GetState")
    if code != "CUDA_SUCCESS":
        raise _StepError("NVIDIA's driver does not tell the state of this process (%s)." % code)
    return getattr(state, "name", str(state)).replace("CU_PROCESS_STATE_", "")


def _do(driver, step, *args):
    code, _ = _call(driver, step, *args)
    if code != "CUDA_SUCCESS":
        what = {
            "Lock": "NVIDIA's driver could not stop this process's calls (%s)",
            "Checkpoint": "NVIDIA's driver could not move the GPU's memory away (%s)",
            "Restore": "NVIDIA's driver could not move the GPU's memory back (%s)",
            "Unlock": "NVIDIA's driver could not let this process's calls go on (%s)",
        }[step]
        error = _StepError(what % code)
        error.busy = (step, code) == ("Lock", "CUDA_ERROR_NOT_READY")
        raise error


def _make_sure_it_left(driver):
    """A process is away by the driver's word only: it tells the state apart from the step."""
    state = _state(driver)
    if state != "CHECKPOINTED":
        raise _StepError(
            "NVIDIA's driver says that the GPU's memory was moved away, and then that the process "
            "is %s" % state
        )


def _freed(before):
    """What is free now that this process is away, which has to be seen.

    Where nobody tells what it used, the room on one of its GPUs has to grow.
    """
    end = time.monotonic() + _FREE_PATIENCE
    while True:
        after = cuda_signs.devices(os.getpid())
        if before is None or after is None:
            raise _StepError("It cannot be read whether the GPU's memory is free")
        if any(used is not None for used, _ in before.values()):
            gone = not any(used for used, _ in after.values())
        else:
            gone = max(after[uuid][1] - free for uuid, (_, free) in before.items()) >= _SEEN
        if gone:
            return after
        if time.monotonic() > end:
            raise _StepError("The GPU's memory is not seen to be free after it was moved away")
        time.sleep(_FREE_INTERVAL)


def _undo(driver):
    """Back to running, whatever the state is; a sentence where that did not work."""
    global _needed, _moved
    try:
        state = _state(driver)
        if state == "CHECKPOINTED":
            _do(driver, "Restore")
        if state in ("CHECKPOINTED", "LOCKED"):
            _do(driver, "Unlock")
    except _StepError:
        pass  # the state tells
    left = _left(driver)
    if not left:
        _needed, _moved = None, 0
        _let_garbage_go()
    return left


def _left(driver):
    """What a step that did not work has left, if that is not a running process."""
    try:
        state = _state(driver)
    except _StepError:
        return _RESTART
    return {"RUNNING": "", "LOCKED": _LOCKED, "CHECKPOINTED": "It stays off the GPU."}.get(
        state, _RESTART
    )


def _bad_state(state):
    return {
        "FAILED": "NVIDIA's driver has lost what this process had on the GPU: restart the kernel.",
        "LOCKED": "Calls to CUDA are locked for this process already, perhaps by another tool.",
        "CHECKPOINTED": "The memory of the GPU is away already, perhaps by another tool.",
    }.get(state, "NVIDIA's driver is at work on this process (%s); try again later." % state)


def _hold_garbage():
    """Collect no garbage until it is all back.

    What is freed then may be of the GPU, and a call to CUDA would block the only thread that can
    end the wait.
    """
    global _collected
    if _collected is None:
        gc.collect()
        _collected = gc.isenabled()
        gc.disable()


def _let_garbage_go():
    global _collected
    if _collected:
        gc.enable()
    _collected = None


def _amounts(before, after):
    """Bytes that a restore needs, by GPU, and the bytes that were moved."""
    granted = int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])
    needed, moved = {}, 0
    for uuid in cuda_signs.uuids():
        used, free = (before or {}).get(uuid, (None, None))
        later = (after or {}).get(uuid, (None, None))[1]
        if used is None:
            need = granted
            if free is not None and later is not None:
                moved += max(0, later - free)
        else:
            need = used + _MARGIN
            moved += used
        # What was free right after cannot be less than what had just been freed.
        needed[uuid] = need if later is None else min(need, later)
    return needed, moved


def _make_sure_of_room():
    rows = cuda_signs.devices(os.getpid())
    if rows is None:
        raise RuntimeError(
            "It cannot be read whether the GPU has room for what was moved away. "
            "It stays off the GPU."
        )
    granted = int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])
    for uuid, (_, free) in rows.items():
        need = granted if _needed is None else _needed[uuid]
        if free < need:
            raise RuntimeError(
                "The GPU has no room for the %s that were moved away: %s are free. "
                "It stays off the GPU." % (_text(need), _text(free))
            )


# -- words -----------------------------------------------------------------------------------------


def _short(error):
    lines = str(error).splitlines()
    text = lines[0].rstrip(".") if lines and lines[0] else type(error).__name__
    return text if len(text) <= 60 else text[:59] + "…"


def _few(pids):
    shown = ", ".join(str(pid) for pid in pids[:3])
    return shown if len(pids) <= 3 else "%s and %d more" % (shown, len(pids) - 3)


def _dotted(version):
    return "%d.%d" % (version // 1000, version % 1000 // 10)


def _text(nbytes):
    return "%.4g GiB" % (nbytes / 2**30) if nbytes >= 2**30 else "%d MiB" % (nbytes // _MIB)
