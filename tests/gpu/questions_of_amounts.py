"""Questions: memory and time; and what may take the machine down."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpu_asked import (
    GIB,
    MIB,
    SCALE,
    back,
    files,
    host,
    mine,
    nvml,
    off,
    pause,
    say,
    step,
    there_and_back,
    timed,
)
from gpu_registry import numbers_of, question, torch_of

# -- memory and time -------------------------------------------------------------------------------


@question("How much beyond PyTorch's cap does NVML count? Is a context measured as it is?")
def context_and_cap() -> None:
    from gpu_share_kernel import caps, contexts

    os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"] = str(6 * GIB)
    caps.install()
    torch = torch_of()
    kept = [torch.zeros(1, device="cuda")]
    say(context=_context(torch), product_measures=contexts.measure())
    square, layer = torch.randn(4096, 4096, device="cuda"), torch.nn.Conv2d(3, 64, 3).cuda()
    layer(torch.randn(8, 3, 128, 128, device="cuda"))
    (square @ square, torch.linalg.qr(square[:512, :512]), torch.fft.fft(square))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    say(with_libraries=_context(torch), product_measures_then=contexts.measure())
    for mib in (256, 2):
        with suppress(torch.OutOfMemoryError):
            for _ in range(8 * GIB // (mib * MIB)):
                more = torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")
                kept.append(more)  # until there is no room
    listed = mine(nvml())
    say(
        share_mib=6 * 1024,
        reserved_mib=torch.cuda.memory_reserved() // MIB,
        listed=listed,
        above_the_share=listed > 6 * GIB if isinstance(listed, int) else None,
        told=[each // MIB for each in torch.cuda.mem_get_info()],
    )


def _context(torch: Any) -> Any:
    """Bytes that NVML counts beside PyTorch's."""
    listed = mine(nvml())
    return listed - torch.cuda.memory_reserved() if isinstance(listed, int) else listed


@question(
    "Does a move carry what PyTorch only keeps for later use? The product gives it back before."
)
def cached_memory() -> None:
    torch = torch_of()
    cached = torch.empty(4 * GIB, dtype=torch.uint8, device="cuda")
    del cached
    ones = torch.ones(1024, device="cuda")
    torch.cuda.synchronize()
    there_and_back(lambda: ones.sum().item() == 1024, tag="with_cache")
    torch.cuda.empty_cache()
    there_and_back(lambda: ones.sum().item() == 1024, tag="without")


@question(
    "For how long does NVML show work that has ended? Samples older than 5 s are left out.",
    seconds=110,
)
def stale_utilization() -> None:
    torch = torch_of()
    square = torch.randn(4096, 4096, device="cuda")
    end = time.monotonic() + 6 * SCALE
    while time.monotonic() < end:
        square = (square @ square).clamp_(-1, 1)
        torch.cuda.synchronize()
    ended, rows = time.monotonic(), []
    while time.monotonic() < ended + 60 * SCALE:
        recent = int((time.time() - 5) * 1e6)
        pair = [_most(nvml(since)["use"]) for since in (0, recent)]
        rows.append([round(time.monotonic() - ended, 1), *pair])
        pause(4)
    say(columns=["seconds since the end", "of all samples", "of the last 5 s"], rows=rows)


def _most(samples: Any) -> Any:
    if not isinstance(samples, list):
        return samples
    return max((row[2] for row in samples if row[0] == os.getpid()), default=None)


@question("Ten times there and back with 1 GiB: does anything grow?", seconds=120)
def repeated() -> None:
    numbers, said = numbers_of(torch_of(), 1024)
    rows = []
    for number in range(10):
        step(f"round {number}")
        seconds = [timed(off)[1], timed(back)[1]]
        rows.append([*seconds, host()["VmRSS"], sum(files().values())])
    say(columns=["off s", "back s", "MiB of the machine", "files"], rows=rows)
    say(right=numbers.sum().item() == said)


@question(
    "CuPy, Numba and JAX, where they are there",
    env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)
def other_frameworks() -> None:
    for name, make in (("cupy", _of_cupy), ("numba", _of_numba), ("jax", _of_jax)):
        step(name)
        try:
            check = make()
        except Exception as error:
            say(**{name: f"not tried: {str(error)[:80]}"})
            continue
        there_and_back(check, tag=name)


def _of_cupy() -> Callable[[], bool]:
    cupy = importlib.import_module("cupy")
    numbers = cupy.arange(2**26)
    said = int(numbers.sum())
    return lambda: int(numbers.sum()) == said


def _of_numba() -> Callable[[], bool]:
    numpy, cuda = importlib.import_module("numpy"), importlib.import_module("numba.cuda")
    numbers = cuda.to_device(numpy.arange(2**24))
    return lambda: int(numbers.copy_to_host()[-1]) == 2**24 - 1


def _of_jax() -> Callable[[], bool]:
    numbers = importlib.import_module("jax.numpy").arange(2**26)
    said = int(numbers.sum())
    return lambda: int(numbers.sum()) == said


@question("How fast is it, beside copies? Is a second move faster?", alone="after", seconds=130)
def speed() -> None:
    from gpu_share_kernel import cuda_signs

    torch = torch_of()

    def rate(to: Any, source: Any) -> float:
        to.copy_(source)
        torch.cuda.synchronize()

        def four() -> None:
            for _ in range(4):
                to.copy_(source, non_blocking=True)
            torch.cuda.synchronize()

        return round(4 * source.nbytes / max(timed(four)[1], 1e-3) / 1e9, 1)

    gpu = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    pinned = torch.empty(GIB, dtype=torch.uint8).pin_memory()
    plain = torch.zeros(GIB, dtype=torch.uint8)
    say(pinned_gbs=[rate(pinned, gpu), rate(gpu, pinned)])
    say(plain_gbs=[rate(plain, gpu), rate(gpu, plain)])
    del gpu, pinned, plain
    gc.collect()
    torch.cuda.empty_cache()
    for gib in (2, 16):
        room = cuda_signs.host_memory() or 0
        if gib * GIB * 1.3 > room:
            say(**{f"gib_{gib}": f"the machine has only {room // MIB} MiB for it"})
            continue
        filled = torch.empty(gib * GIB, dtype=torch.uint8, device="cuda").random_(0, 256)
        torch.cuda.synchronize()
        rows = []
        for number in range(2):
            step(f"{gib} GiB, round {number}")
            away = timed(off)[1]
            meanwhile = host()
            rows.append({"off_s": away, "back_s": timed(back)[1], "host_away": meanwhile})
        say(**{f"gib_{gib}": rows})
        del filled
        torch.cuda.empty_cache()


# -- after all else --------------------------------------------------------------------------------

_CHILD = """
import torch
ones = torch.ones(2**28, device="cuda"); torch.cuda.synchronize()
from gpu_share_kernel import cuda
cuda.vacate()
{}
print("there", flush=True); input()
"""


def _child(code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    say(said=child.stdout.readline().decode().strip())
    return child


@question(
    "kill -9 of a process that is away: is the machine's memory free, the GPU well?",
    last=True,
    alone="before",
    seconds=60,
)
def killed_away() -> None:
    before, child = host(), _child("")
    away = host()
    child.kill()
    child.wait(30)
    pause(1)
    rows = [each["MemAvailable"] for each in (before, away, host())]
    say(available_mib=rows, used_mib=nvml()["used"] // MIB)


@question(
    "kill -9 of a process that came back: does the machine live on? (cuda-checkpoint#53)",
    last=True,
    alone="before",
    seconds=100,
)
def killed_restored() -> None:
    child = _child("cuda.resume()")
    child.kill()
    child.wait(30)
    begun = time.monotonic()
    while time.monotonic() < begun + 45 * SCALE:
        say(lives_s=round(time.monotonic() - begun), used_mib=nvml()["used"] // MIB)
        pause(5)
    torch = torch_of()
    say(right=torch.ones(4, device="cuda").sum().item() == 4)
