"""Memory of a simulated GPU, to see and to test how shares behave where there is no GPU.

::

    from gpu_share_kernel import simulated

    tensor = simulated.allocate("2GiB")
    simulated.memory()          # (bytes in use by this kernel, bytes of its share)
    tensor.free()

No memory is taken from the machine: only the amounts are kept, in small files that the Jupyter
server reads. What holds is what holds on a GPU: a kernel cannot have more than its share, and all
kernels together cannot have more than the device.
"""

import fcntl
import json
import os
import re
import threading
import time
from contextlib import ExitStack, contextmanager

__all__ = ["Memory", "OutOfMemoryError", "allocate", "memory", "most", "resume", "vacate", "work"]

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS.update({"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12})

_lock = threading.RLock()
#: Bytes in use by device; belongs to the process ``_pid``.
_used = {}  # type: dict[str, int]
_pid = None
_busy_until = 0.0
#: Bytes by device that wait in the machine's memory while the share is given back, else None.
_away = None
_back = threading.Condition(_lock)


class OutOfMemoryError(MemoryError):
    """The share, or the simulated device, has no room for what was asked."""


class Memory:
    """Memory of a simulated GPU. Freed by :meth:`free`, at the end of a ``with``, or unused."""

    def __init__(self, device, nbytes):
        self._device = device
        self.nbytes = nbytes
        self._held = True

    def free(self):
        """Give the memory back. Idempotent."""
        with _lock:
            if self._held:
                self._held = False
                _change(self._device, -self.nbytes)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.free()

    def __del__(self):
        try:
            self.free()
        except Exception:  # the interpreter is ending, and the files with it
            return

    def __reduce__(self):
        """Taken anew, on the same GPU of the share, wherever this is loaded."""
        number = _uuids().index(self._device) if self._device in _uuids() else 0
        return _taken_anew, (number, self.nbytes, self._held)

    def __repr__(self):
        state = _text(self.nbytes) if self._held else "freed"
        return "<simulated GPU memory: %s>" % state


def allocate(amount, device=0, beyond_share=False):
    """Take memory of a simulated GPU.

    Parameters
    ----------
    amount: bytes, or a text such as ``"2GiB"``.
    device: number of the GPU within this kernel's share, from 0.
    beyond_share: behave like code that no framework caps: only the device's own limit holds.

    Raises
    ------
    OutOfMemoryError: the share or the device has not that much left.
    RuntimeError: this kernel has no share of a simulated GPU.
    """
    nbytes = _bytes(amount)
    uuid, granted, total = _share(device)
    with _lock:
        while _away is not None:  # as a call to a driver that is stopped
            _back.wait()
        mine = _own().get(uuid, 0)
        if mine + nbytes > granted and not beyond_share:
            raise OutOfMemoryError(
                "Tried to allocate %s: this kernel's share is %s, of which %s is in use "
                "(simulated GPU)." % (_text(nbytes), _text(granted), _text(mine))
            )
        with _device(uuid) as others:
            if others + mine + nbytes > total:
                raise OutOfMemoryError(
                    "Tried to allocate %s: the device has %s, of which %s is in use by all "
                    "kernels (simulated GPU)." % (_text(nbytes), _text(total), _text(others + mine))
                )
            _change(uuid, nbytes)
    return Memory(uuid, nbytes)


def memory(device=0):
    """Bytes in use by this kernel, and bytes of its share, on one simulated GPU."""
    uuid, granted, _ = _share(device)
    with _lock:
        return _own().get(uuid, 0), granted


def most():
    """Bytes of the device of which this process has most, whether they are there or away."""
    with _lock:
        own = _own()
        return max((own if _away is None else _away).values(), default=0)


def opened():
    """Whether this process has ever taken memory of a simulated GPU."""
    return bool(_own())


def vacate():
    """Move what this process holds off the simulated GPUs; the bytes that were moved.

    What :func:`resume` undoes. Who wants memory meanwhile waits. Idempotent.
    """
    global _away
    with _lock:
        own = _own()
        if _away is None:
            _away = dict(own)
            own.update(dict.fromkeys(own, 0))
            _publish()
        return sum(_away.values())


def resume():
    """Take again what :func:`vacate` has moved. Nothing where nothing was.

    Raises
    ------
    OutOfMemoryError: the device has no room for it. Everything stays as it is.
    """
    global _away
    with _lock:
        if _away is None:
            return
        totals = os.environ["JUPYTER_GPU_SHARE_SIMULATED_BYTES"].split(",")
        with ExitStack() as devices:
            for uuid, nbytes in sorted(_away.items()):
                total = int(totals[_uuids().index(uuid)])
                if devices.enter_context(_device(uuid)) + nbytes > total:
                    raise OutOfMemoryError(
                        "The device has no room for the %s that were moved off it (simulated GPU)."
                        % _text(nbytes)
                    )
            _own().update(_away)
            _away = None
            _publish()
        _back.notify_all()


def _taken_anew(number, nbytes, held):
    if held:
        return allocate(nbytes, number)
    freed = Memory(_uuids()[number], nbytes)
    freed._held = False
    return freed


def work(seconds):
    """Keep the simulated GPUs of the share busy, so that utilisation shows. Blocks meanwhile."""
    global _busy_until
    _share(0)
    end = time.time() + seconds
    with _lock:
        _busy_until = max(_busy_until, end)
        _publish()
    try:
        while time.time() < end:
            time.sleep(min(0.1, max(0.0, end - time.time())))
    finally:
        with _lock:
            _busy_until = min(_busy_until, time.time())
            _publish()


def _share(device):
    uuids = _uuids()
    if not uuids or "JUPYTER_GPU_SHARE_SIMULATED_BYTES" not in os.environ:
        what = "a real GPU" if uuids else "no GPU"
        raise RuntimeError("This kernel has %s: there is no simulated memory to take." % what)
    if not 0 <= device < len(uuids):
        raise RuntimeError("This kernel's share has %d simulated GPU(s)." % len(uuids))
    totals = os.environ["JUPYTER_GPU_SHARE_SIMULATED_BYTES"].split(",")
    granted = int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"])
    return uuids[device], granted, int(totals[device])


def _uuids():
    return [u for u in os.environ.get("JUPYTER_GPU_SHARE_UUID", "").split(",") if u]


def _folder():
    return os.environ["JUPYTER_GPU_SHARE_SIMULATED_DIR"]


def _own():
    """What this process holds. A forked child starts with nothing."""
    global _used, _pid, _away
    if _pid != os.getpid():
        _used, _pid, _away = {}, os.getpid(), None
    return _used


def _change(uuid, nbytes):
    own = _own() if _away is None else _away
    own[uuid] = max(0, own.get(uuid, 0) + nbytes)
    _publish()


def _publish():
    """Write this process's file in one step. A reader checks pid and start time."""
    path = os.path.join(_folder(), "%d.json" % os.getpid())
    content = {
        "pid": os.getpid(),
        "start_time": start_time(os.getpid()),
        "used": _own(),
        "busy_until": _busy_until,
    }
    # Made anew each time: the name differs by process, and no two threads write at once.
    with open(path + ".new", "w") as file:
        _open_to_others(file)
        json.dump(content, file)
    os.replace(path + ".new", path)


@contextmanager
def _device(uuid):
    """Hold the device against other processes; gives the bytes that they use of it."""
    with open(os.path.join(_folder(), "%s.lock" % uuid), "a") as file:
        _open_to_others(file)
        fcntl.flock(file, fcntl.LOCK_EX)
        others = 0
        for name in os.listdir(_folder()):
            if name.endswith(".json"):
                row = _read(os.path.join(_folder(), name))
                if row and row["pid"] != os.getpid():
                    others += row["used"].get(uuid, 0)
        yield others


def _open_to_others(file):
    """Have who may write the folder, which several users may share, read and lock the file."""
    others = os.stat(_folder()).st_mode & 0o022
    info = os.fstat(file.fileno())
    if others and info.st_uid == os.geteuid():
        os.fchmod(file.fileno(), 0o600 | others | others << 1)


def _read(path):
    """A living process's file, or None. The file of a dead one is removed."""
    try:
        with open(path) as file:
            row = json.load(file)
        alive = start_time(row["pid"]) == row["start_time"]
    except (OSError, ValueError, KeyError):
        return None
    if not alive:
        try:
            os.unlink(path)
        except OSError:
            pass
        return None
    return row


def start_time(pid):
    """When a process started, good for comparing only; empty where the system does not tell."""
    try:
        with open("/proc/%d/stat" % pid, errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        # Without /proc the number alone has to do, as long as such a process is there.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _bytes(amount):
    if isinstance(amount, int) and not isinstance(amount, bool):
        nbytes = amount
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(amount))
        unit = _UNITS.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            raise ValueError("%r is no amount of memory; write it like '2GiB'." % (amount,))
        nbytes = int(float(match.group(1)) * unit)
    if nbytes <= 0:
        raise ValueError("%r is no amount of memory; it must be above 0." % (amount,))
    return nbytes


def _text(nbytes):
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if nbytes >= unit:
            return "%.4g %s" % (nbytes / unit, name)
    return "%d B" % nbytes
