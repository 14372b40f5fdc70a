"""A FAKE of NVIDIA's driver, for machines without a GPU: builds it, and changes what it answers.

`cuda.c` and `nvml.c` are its libraries, through which the true bindings of NVIDIA run; `place.c`
shows a process the files of a driver. All processes that have :attr:`FakeDriver.env` in their
environment have the same GPUs; `state.h` says what is kept of them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

HERE = Path(__file__).parent
MIB, GIB = 2**20, 2**30
#: Of the first and the second GPU.
UUIDS = tuple(f"GPU-00000000-0000-0000-0000-00000000000{n}" for n in range(4))
#: What NVML tells of processes.
TOLD, NO_MEMORY, NO_PROCESS = range(3)
#: Steps of a checkpoint.
STEPS = ("GetState", "Lock", "Checkpoint", "Restore", "Unlock")
STATES = ("RUNNING", "LOCKED", "CHECKPOINTED", "FAILED")
_MAGIC, _GPUS, _PROCESSES, _GROUPS = 0x47505531, 4, 160, 32
_LIBRARIES = {
    "libcuda.so.1": "cuda.c",
    "libnvidia-ml.so.1": "nvml.c",
    "libfakeplace.so": "place.c",
}
_FLAGS = (
    "-shared",
    "-fPIC",
    "-pthread",
    "-Wall",
    "-Werror",
    "-Wno-unused-function",
    "-Wl,--no-as-needed",
    "-ldl",
)


class _Gpu(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 48),
        ("name", ctypes.c_char * 64),
        *((name, ctypes.c_uint64) for name in ("total", "reserved", "context", "others")),
        *((name, ctypes.c_int32) for name in ("lost", "no_memory", "instances", "place")),
        ("busy", ctypes.c_int32),
        ("stubborn", ctypes.c_int32),
    ]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("state", ctypes.c_int32),
        ("space", ctypes.c_uint64),
        ("used", ctypes.c_uint64 * _GPUS),
        ("contexts", ctypes.c_int32 * _GPUS),
        ("sm", ctypes.c_uint32),
        ("untold", ctypes.c_uint32),
        ("stamp", ctypes.c_uint64),
        ("group", ctypes.c_char * 128),
    ]


class _Group(ctypes.Structure):
    _fields_ = [
        ("path", ctypes.c_char * 160),
        ("set", ctypes.c_int32 * _GPUS),
        ("hard", ctypes.c_uint64 * _GPUS),
    ]


class _State(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("space", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("offset", "told", "wsl", "version", "init", "lies")),
        ("answers", ctypes.c_int32 * len(STEPS)),
        ("calls", ctypes.c_int32 * len(STEPS)),
        ("count", ctypes.c_int32),
        ("old", ctypes.c_int32),
        ("gpus", _Gpu * _GPUS),
        ("processes", _Process * _PROCESSES),
        ("groups", _Group * _GROUPS),
    ]


#: Begins a program with process numbers of its own, as in a container.
APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def needs_namespaces() -> None:
    """Skip the test where that is not allowed."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a namespace is made by unshare, which needs root")
    tried = subprocess.run([*APART, "true"], capture_output=True, timeout=PATIENCE, check=False)
    if tried.returncode:
        pytest.skip("namespaces of process numbers are not allowed here")


@cache
def libraries() -> Path:
    """The folder of the fake libraries; they are built once for each state of their sources."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake driver is C, and there is no C compiler (cc)")
    sources = [*sorted(HERE.glob("*.c")), HERE / "state.h"]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "jupyter-gpu-share" / f"fake-driver-{os.uname().machine}-{digest}"
    if not folder.is_dir():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        made.mkdir(parents=True)
        for library, source in _LIBRARIES.items():
            subprocess.run(
                # By its name a process finds one that it has loaded, as it would the true one.
                [compiler, *_FLAGS, f"-Wl,-soname,{library}", "-o", made / library, HERE / source],
                check=True,
                timeout=PATIENCE,
            )
        try:
            made.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(made)
    return folder


class FakeDriver:
    """GPUs of a fake driver, whole ones of 16 GiB; a test changes them as it likes.

    Parameters
    ----------
    folder: of its state; where it is there, its driver is meant.
    """

    def __init__(self, folder: Path, count: int = 1, *, gib: int = 16) -> None:
        self.folder = folder
        if not folder.exists():
            self._make(count, gib)
        with (folder / "state").open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._alive = (folder / "alive").open("r+b")
        self.state: Any = _State.from_buffer(self._map)

    def _make(self, count: int, gib: int) -> None:
        folder = self.folder
        (folder / "dev").mkdir(parents=True)
        (folder / "alive").touch()
        state: Any = _State(magic=_MAGIC, size=ctypes.sizeof(_State), count=count)
        state.space = Path("/proc/self/ns/pid").stat().st_ino
        state.offset = 1_000_000
        state.version = 13000
        for number, gpu in enumerate(state.gpus):
            gpu.uuid, gpu.name = UUIDS[number].encode(), b"NVIDIA Fake-16GB"
            gpu.total, gpu.context, gpu.place = gib * GIB, 256 * MIB, number
        (folder / "state").write_bytes(bytes(state))

    @property
    def env(self) -> dict[str, str]:
        """What a process has in its environment that is to see this driver."""
        return {
            "FAKE_DRIVER": str(self.folder),
            "LD_LIBRARY_PATH": str(libraries()),
            "LD_PRELOAD": str(libraries() / "libfakeplace.so"),
            "CUDA_MPS_PIPE_DIRECTORY": str(self.folder / "mps"),
        }

    @contextmanager
    def changed(self) -> Iterator[Any]:
        """The state, while no process looks at it."""
        with (self.folder / "state").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield self.state

    def pretend(self, pid: int, nbytes: int | None, gpu: int = 0) -> None:
        """Have a process use so many bytes of a GPU that there may be none of; None: not told.

        It ends with this object.
        """
        with self.changed() as state:
            number = next(n for n, row in enumerate(state.processes) if not row.pid)
            fcntl.lockf(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            process = state.processes[number]
            process.pid, process.space, process.contexts[gpu] = pid, state.space, 1
            # The context is part of what is told.
            process.used[gpu] = (nbytes or 0) - state.gpus[gpu].context
            process.untold = nbytes is None

    def answer(self, step: str, code: int) -> None:
        """Have a step of the checkpoint answer an error in place of doing it; 0: no more."""
        self.state.answers[STEPS.index(step)] = code

    def calls(self) -> dict[str, int]:
        """How often each step was asked for since the last look."""
        with self.changed() as state:
            found = {step: state.calls[n] for n, step in enumerate(STEPS) if state.calls[n]}
            ctypes.memset(ctypes.addressof(state.calls), 0, ctypes.sizeof(state.calls))
        return found

    def used(self, gpu: int = 0) -> int:
        """Bytes of a GPU that are truly in use by processes, whatever NVML tells."""
        total = 0
        with self.changed() as state, (self.folder / "alive").open("r+b") as alive:
            for number, process in enumerate(state.processes):
                if not _is_held(alive, number):
                    continue
                there = process.state != STATES.index("CHECKPOINTED") or state.lies
                if process.pid and process.contexts[gpu] and there:
                    total += state.gpus[gpu].context + process.used[gpu]
        return total

    def limits(self, gpu: int = 0) -> dict[str, int]:
        """Bytes of a GPU that control groups may have, by the names of those that are there."""
        with self.changed() as state:
            return {
                Path(group.path.decode()).name: group.hard[gpu]
                for group in state.groups
                if group.path and group.set[gpu] and Path(group.path.decode()).is_dir()
            }

    def close(self) -> None:
        """Let go of the state."""
        del self.state
        self._alive.close()
        self._map.close()


def _is_held(file: Any, byte: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
    return False
