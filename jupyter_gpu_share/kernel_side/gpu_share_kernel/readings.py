"""What the processes of a kernel use: GPU memory, utilisation, memory of the machine.

From inside a pod. A GPU's driver tells of processes by the numbers that they have on the machine.
In a container with numbers of its own these are others' numbers, or come without their memory: the
use is not known there, and None is said.
"""

import ctypes
import json
import os
import time

__all__ = [
    "Gpu",
    "Use",
    "counts_as_driver",
    "living",
    "memory_events",
    "resident_bytes",
    "simulated_use",
    "tree",
]

#: The namespace of process numbers that Linux begins with, in which drivers count.
_FIRST = "pid:[4026531836]"

_NOT_AVAILABLE = 2**64 - 1
_INSUFFICIENT_SIZE = 7
_ATTEMPTS = 5


def counts_as_driver():
    """Whether process numbers mean the same here as to the GPU's driver."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST
    except OSError:
        return False


def tree(root):
    """Process numbers of ``root``, its descendants and what else is in its session."""
    parents, sessions = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(name)], sessions[int(name)] = int(fields[1]), int(fields[3])
    found = {root} | {pid for pid, session in sessions.items() if session == root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def living(pids):
    """Those of ``pids`` that run: neither gone nor zombies."""
    found = set()
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid, errors="replace") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if state not in "ZX":
            found.add(pid)
    return found


def resident_bytes(pids):
    """Memory of the machine that processes use, shared pages counted once for each."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/statm" % pid) as file:
                total += int(file.read().split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return total * os.sysconf("SC_PAGE_SIZE")


def memory_events(root="/sys/fs/cgroup"):
    """How often something in this container was killed for want of memory; None: not known."""
    # The second version of control groups, and the first one.
    for name in ("memory.events", "memory/memory.oom_control"):
        try:
            with open(os.path.join(root, name)) as file:
                rows = dict(line.split() for line in file if len(line.split()) == 2)
            return int(rows["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return None


def simulated_use(folder, pids, now):
    """Bytes and utilisation of simulated GPUs, as the processes have noted them down."""
    used, busy = 0, False
    for pid in pids:
        try:
            with open(os.path.join(folder, "%d.json" % pid)) as file:
                row = json.load(file)
            mine = sum(int(amount) for amount in row["used"].values())
            works = row["busy_until"] > now
        except Exception:  # noqa: S112 - gone, or written by something else
            continue
        used += mine
        busy = busy or works
    return used, 1.0 if busy else 0.0


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class _Rates(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Gpu:
    """The GPUs that this container sees, through the driver's own library. Nothing is installed."""

    def __init__(self, library="libnvidia-ml.so.1"):
        self._handles = []
        self._nvml = None
        try:
            self._nvml = ctypes.CDLL(library)
        except OSError:
            return
        if self._nvml.nvmlInit_v2() != 0:
            self._nvml = None
            return
        number = ctypes.c_uint()
        self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
        for index in range(number.value):
            handle = ctypes.c_void_p()
            if self._nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                self._handles.append(handle)

    @property
    def present(self):
        """True where the driver's library answers."""
        return bool(self._handles)

    def read(self, pids):
        """Bytes that the processes use, or None; and the busiest GPU's utilisation, or None.

        The utilisation is that of the whole GPU, neighbours included.
        """
        used, seen, busiest = 0, False, None
        if self._nvml is None:
            return None, None
        if not counts_as_driver():
            pids = ()
        for handle in self._handles:
            for row in self.processes(handle):
                if row.pid in pids and row.used != _NOT_AVAILABLE:
                    used, seen = used + row.used, True
            rates = _Rates()
            if self._nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0:
                busiest = max(busiest or 0.0, rates.gpu / 100)
        return (used if seen else None), busiest

    def listing(self, pid):
        """UUIDs of the GPUs of which the driver tells that a process uses them."""
        handles = [
            handle
            for handle in self._handles
            if any(row.pid == pid for row in self.processes(handle))
        ]
        return [name for name in map(self._name, handles) if name]

    def names(self):
        """UUIDs of all GPUs in the order of their numbers; empty: of one that is not told."""
        return [self._name(handle) for handle in self._handles]

    def _name(self, handle):
        text = ctypes.create_string_buffer(96)
        done = self._nvml is not None and not self._nvml.nvmlDeviceGetUUID(handle, text, len(text))
        return text.value.decode("utf-8", "replace") if done else ""

    def processes(self, handle):
        """Rows with ``pid`` and ``used`` bytes of the processes on a GPU."""
        read = getattr(self._nvml, "nvmlDeviceGetComputeRunningProcesses_v3", None)
        if read is None:
            return []
        number = ctypes.c_uint(64)
        for _ in range(_ATTEMPTS):  # it says how many there are; by then there may be more
            rows = (_Process * number.value)()
            code = read(handle, ctypes.byref(number), rows)
            if code != _INSUFFICIENT_SIZE:
                return rows[: number.value] if code == 0 else []
        return []


class Use:
    """What processes use of the GPUs of this container, simulated ones or the driver's."""

    def __init__(self):
        self._gpu = None

    def read(self, pids, simulated):
        """Bytes in use and utilisation, each None where it is not known.

        Parameters
        ----------
        simulated: the folder of simulated GPUs; empty or None: the driver is asked.
        """
        if simulated:
            return simulated_use(simulated, pids, time.time())
        if self._gpu is None or not self._gpu.present:  # its driver may come up later
            self._gpu = Gpu()
        return self._gpu.read(pids) if self._gpu.present else (None, None)
