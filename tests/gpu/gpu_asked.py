"""What the process of one question has; see `first_minutes.py`.

Run as `python gpu_asked.py QUESTION`. It needs the kernel-side files on its path, the share of a
GPU in its environment, and in FIRST_MINUTES_OUT the number of a pipe, to which facts go as they are
found: what a process that hangs or dies has said before is an answer, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MIB, GIB = 2**20, 2**30
_OUT = int(os.environ.get("FIRST_MINUTES_OUT", "-1"))
#: All pauses are this many times as long.
SCALE = float(os.environ.get("FIRST_MINUTES_SCALE", "1"))

#: Whether this process has been moved off and back.
_moved_back = False


def say(**facts: Any) -> None:
    """Tell facts, which the row of this question gets."""
    os.write(_OUT, (json.dumps(facts, default=str) + "\n").encode())


def step(text: str) -> None:
    """Tell what comes next: where it never ends, that is the answer."""
    say(step=text)


def pause(seconds: float) -> None:
    time.sleep(seconds * SCALE)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What comes of it, and the seconds that it took."""
    begun = time.perf_counter()
    value = work()
    return value, round(time.perf_counter() - begun, 3)


# -- the driver ------------------------------------------------------------------------------------


def state() -> str:
    """Of this process, as the driver tells it, or why it does not."""
    from gpu_share_kernel import cuda

    try:
        return str(cuda._state(cuda._driver()))
    except Exception as error:
        return str(error)


def raw(name: str, *arguments: Any) -> str:
    """The code with which one step of the checkpoint answers."""
    from gpu_share_kernel import cuda

    return str(cuda._call(cuda._driver(), name, *arguments)[0])


def nvml(since: int = 0) -> dict[str, Any]:
    """What NVIDIA's library tells of the GPU, asked in a process of its own as the product does.

    `free`, `used`, `total` bytes; `listed`: bytes by process number; `use`: samples of utilisation
    that are newer than `since`.
    """
    command = [sys.executable, "-S", str(Path(__file__)), "--nvml", str(since)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError("NVML: " + done.stderr.decode()[-300:])
    found: dict[str, Any] = json.loads(done.stdout)
    found["listed"] = {int(pid): used for pid, used in found["listed"].items()}
    return found


def mine(found: dict[str, Any]) -> Any:
    """Bytes that are told of this process, or "not listed"."""
    return found["listed"].get(os.getpid(), "not listed")


def files(pid: Any = "self") -> dict[str, int]:
    """How often a process has each of the driver's files open."""
    seen: dict[str, int] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            if target.startswith(("/dev/nvidia", "/dev/dxg")):
                seen[target] = seen.get(target, 0) + 1
    return seen


def mapped(word: str) -> list[int]:
    """How many pieces of this process's memory have the word in their name, and their bytes."""
    sizes = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if word in line:
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            sizes.append(end - begin)
    return [len(sizes), sum(sizes)]


def host() -> dict[str, int]:
    """MiB of the machine that this process and its control group take, and that are free."""
    rows = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    names = ("VmRSS", "VmLck", "VmPin", "RssAnon", "RssShmem", "RssFile")
    told = {name: int(rows[name].split()[0]) // 1024 for name in names if name in rows}
    memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
    told["MemAvailable"] = int(memory.split()[0]) // 1024
    for path in (
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ):
        with suppress(OSError, ValueError):
            told["group"] = int(Path(path).read_text()) // MIB
    return told


# -- there and back --------------------------------------------------------------------------------


def off() -> int:
    """Bytes that are moved off the GPU, by the product's own way."""
    from gpu_share_kernel import cuda

    return int(cuda.vacate())


def back() -> None:
    global _moved_back
    from gpu_share_kernel import cuda

    cuda.resume()
    _moved_back = True


def there_and_back(check: Callable[[], Any], tag: str = "") -> bool:
    """Look, move off, move back, and look whether all is right. Facts are told as they come."""
    from gpu_share_kernel import cuda

    tag = tag and f"{tag}_"
    step(tag + "look")
    say(**{tag + "hindrance": cuda.hindrance()})
    before, host_before = nvml(), host()
    step(tag + "off")
    try:
        moved, seconds = timed(off)
    except Exception as error:
        say(**{tag + "not_off": str(error), tag + "state": state()})
        return False
    after, host_after = nvml(), host()
    grown = {name: host_after[name] - host_before.get(name, 0) for name in host_after}
    say(
        **{
            tag + "off_s": seconds,
            tag + "moved_mib": moved // MIB,
            tag + "freed_mib": (after["free"] - before["free"]) // MIB,
            tag + "listed_before": mine(before),
            tag + "listed_away": mine(after),
            tag + "files_away": files(),
            tag + "host_grown_mib": grown,
        }
    )
    step(tag + "back")
    try:
        _, seconds = timed(back)
    except Exception as error:
        say(**{tag + "not_back": str(error), tag + "state": state()})
        return False
    say(**{tag + "back_s": seconds, tag + "state": state()})
    step(tag + "check")
    say(**{tag + "right": bool(check())})
    return True


def _leave() -> None:
    """Move off once more: killing one that came back has hung machines (cuda-checkpoint#53)."""
    if not _moved_back:
        return
    try:
        off()
        say(left="moved off before the end")
    except BaseException as error:
        say(left=f"not moved off before the end: {error}")


def _answer(name: str) -> None:
    import gpu_questions

    try:
        gpu_questions.QUESTIONS[name].ask()
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        say(error=f"{type(error).__name__}: {error}", where=f"{where.name}, line {where.lineno}")
    _leave()
    say(done=True)
    os._exit(0)  # what is left of threads shall not hold it up


# -- NVIDIA's library, in a process of its own -----------------------------------------------------


def _tell(since: int) -> None:
    import ctypes

    from gpu_share_kernel import cuda_signs, readings

    class Sample(ctypes.Structure):
        _fields_ = [
            ("pid", ctypes.c_uint),
            ("stamp", ctypes.c_ulonglong),
            *((name, ctypes.c_uint) for name in ("sm", "memory", "encoder", "decoder")),
        ]

    gpu = readings.Gpu()
    if not gpu.present:
        sys.exit("NVIDIA's library does not answer")
    library, handle = gpu._nvml, ctypes.c_void_p()
    wanted = cuda_signs.uuids()
    if wanted:
        code = library.nvmlDeviceGetHandleByUUID(wanted[0].encode(), ctypes.byref(handle))
    else:
        code = library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    if code:
        sys.exit(f"no such GPU: {code}")
    memory, text = cuda_signs._Amounts(), ctypes.create_string_buffer(96)
    library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    library.nvmlDeviceGetUUID(handle, text, len(text))
    number, samples = ctypes.c_uint(4096), (Sample * 4096)()
    code = library.nvmlDeviceGetProcessUtilization(
        handle, samples, ctypes.byref(number), ctypes.c_ulonglong(since)
    )
    rows = [(row.pid, row.used) for row in gpu.processes(handle)]
    told = {
        "uuid": text.value.decode(),
        **{name: getattr(memory, name) for name in ("total", "free", "used")},
        "listed": {pid: None if used == readings._NOT_AVAILABLE else used for pid, used in rows},
        "use": [[each.pid, each.stamp, each.sm] for each in samples[: number.value]]
        if code == 0
        else f"error {code}",
        "keeps_limits": hasattr(library, "nvmlDeviceSetMemoryLimits_v1"),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "--nvml":
        _tell(int(sys.argv[2]))
    else:
        # Questions import this module by its name, and shall get this one.
        sys.modules["gpu_asked"] = sys.modules["__main__"]
        _answer(sys.argv[1])
