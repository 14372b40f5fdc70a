"""A FAKE of NVIDIA's module `cuda.bindings.driver` for unit tests, which choose its answers.

Names, arguments and answers are those of cuda-bindings 12.8 to 13.5. What a process has on its GPU
is a file `<uuid>.<pid>` in the folder `FAKE_GPU`, which the FAKE of NVML reads; files of the driver
look as if they lay in `/dev`. In states in which the real driver blocks a call, this one notes it
in `blocked` and goes on.
"""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path
from typing import Any


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_OPERATING_SYSTEM = 304
    CUDA_ERROR_ILLEGAL_STATE = 401
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_NOT_SUPPORTED = 801


class CUprocessState(IntEnum):
    CU_PROCESS_STATE_RUNNING = 0
    CU_PROCESS_STATE_LOCKED = 1
    CU_PROCESS_STATE_CHECKPOINTED = 2
    CU_PROCESS_STATE_FAILED = 3
    CU_PROCESS_STATE_CHECKPOINTING = 4


class CUcheckpointLockArgs:
    timeoutMs = 0  # noqa: N815


#: What a test sets and looks at.
version = 13000
state = "RUNNING"
#: By step: the code that it answers, or what it raises; and the state that it leaves, if another.
fail: dict[str, tuple[Any, str | None]] = {}
calls: list[str] = []
blocked: list[str] = []
on_gpu: dict[str, int] = {}
limit = 0

_files: list[int] = []
_readlink = os.readlink


def _seen(path: Any, **options: Any) -> Any:
    target = _readlink(path, **options)
    folder = f"{os.environ['FAKE_GPU']}/dev/"
    return "/dev/" + target[len(folder) :] if str(target).startswith(folder) else target


os.readlink = _seen  # type: ignore[assignment]


def open_driver() -> int:
    """Open a file of the driver, as the first call to CUDA does; its number."""
    path = Path(os.environ["FAKE_GPU"]) / "dev" / "nvidia0"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    _files.append(os.open(path, os.O_RDONLY))
    return _files[-1]


def allocate(nbytes: int, uuid: str | None = None) -> None:
    """What a framework does when it makes an array on the GPU."""
    if state != "RUNNING":
        blocked.append("allocate")
    if not _files:
        open_driver()
    uuid = uuid or os.environ["JUPYTER_GPU_SHARE_UUID"].split(",")[0]
    on_gpu[uuid] = on_gpu.get(uuid, 0) + nbytes
    _publish()


class Array:
    """Memory of the GPU that is given back when nobody holds it any more."""

    def __init__(self, nbytes: int) -> None:
        allocate(nbytes)
        self._nbytes = nbytes

    def __del__(self) -> None:
        allocate(-self._nbytes)


def _publish() -> None:
    for uuid, nbytes in on_gpu.items():
        path = Path(os.environ["FAKE_GPU"]) / f"{uuid}.{os.getpid()}"
        if state in ("RUNNING", "LOCKED"):
            path.write_text(str(nbytes))
        else:
            path.unlink(missing_ok=True)


def cuDriverGetVersion() -> tuple[Any, int | None]:
    return _answer("Version", version)


def cuCheckpointProcessGetState(pid: int) -> tuple[Any, Any]:
    assert pid == os.getpid()
    if state == "NEW":
        raise ValueError("6 is not a valid CUprocessState")
    return _answer("GetState", CUprocessState[f"CU_PROCESS_STATE_{state}"])


def cuCheckpointProcessLock(pid: int, args: CUcheckpointLockArgs | None) -> tuple[Any]:
    global limit
    limit = args.timeoutMs if args else 0
    return _step("Lock", pid, "RUNNING", "LOCKED")


def cuCheckpointProcessCheckpoint(pid: int, args: None) -> tuple[Any]:
    return _step("Checkpoint", pid, "LOCKED", "CHECKPOINTED")


def cuCheckpointProcessRestore(pid: int, args: None) -> tuple[Any]:
    return _step("Restore", pid, "CHECKPOINTED", "LOCKED")


def cuCheckpointProcessUnlock(pid: int, args: None) -> tuple[Any]:
    return _step("Unlock", pid, "LOCKED", "RUNNING")


def _step(name: str, pid: int, before: str, after: str) -> tuple[Any]:
    assert pid == os.getpid()
    calls.append(name)
    if name in fail:
        code, left = fail[name]
        _enter(left or state)
        if isinstance(code, BaseException):
            raise code
        return (CUresult[code],)
    if state != before:
        return (CUresult.CUDA_ERROR_ILLEGAL_STATE,)
    _enter(after)
    return (CUresult.CUDA_SUCCESS,)


def _enter(new: str) -> None:
    """The driver closes its files with a checkpoint, and opens them with a restore."""
    global state
    if new == "CHECKPOINTED":
        while _files:
            os.close(_files.pop())
    elif state == "CHECKPOINTED":
        open_driver()
    state = new
    _publish()


def _answer(name: str, value: Any) -> tuple[Any, Any]:
    if name in fail:
        return CUresult[fail[name][0]], None
    return CUresult.CUDA_SUCCESS, value
