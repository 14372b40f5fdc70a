"""Questions: the machine, and what is moved off the GPU and back."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from gpu_asked import (
    MIB,
    files,
    host,
    mapped,
    mine,
    nvml,
    raw,
    say,
    state,
    step,
    there_and_back,
    timed,
)
from gpu_registry import first_line, numbers_of, question, torch_of

# -- what it runs on -------------------------------------------------------------------------------


@question(
    "What machine is it, and does NVML list processes by the numbers that we see?", alone="before"
)
def machine() -> None:
    from gpu_share_kernel import cuda, cuda_signs, driver, readings

    found = nvml()
    say(
        system=platform.release(),
        kind=platform.machine(),
        python=sys.version.split()[0],
        driver=(first_line("/proc/driver/nvidia/version") or "")[:120],
        total_mib=found["total"] // MIB,
        keeps_limits_of_groups=found["keeps_limits"],
        counts_as_driver=readings.counts_as_driver(),
        is_wsl=driver.is_wsl(),
        in_container=any(Path(p).exists() for p in ("/.dockerenv", "/run/.containerenv")),
        sandbox=(first_line("/proc/version") or "")[:60],
        devices=sorted(str(path) for path in Path("/dev").glob("nvidia*")),
        memory_max=first_line("/sys/fs/cgroup/memory.max"),
        mps=cuda_signs.mps(),
        ptrace_scope=first_line("/proc/sys/kernel/yama/ptrace_scope"),
        host=host(),
        cuda=cuda._code(cuda._driver().cuDriverGetVersion),
        host_memory_mib=(cuda_signs.host_memory() or 0) // MIB,
    )
    with suppress(Exception):
        say(sees_all_gpus=cuda._sees_all_gpus())
    asked = "name,driver_version,persistence_mode,mig.mode.current,compute_mode,memory.total"
    command = ["nvidia-smi", f"--query-gpu={asked},memory.reserved", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        say(smi=said.stdout.strip())
    torch = torch_of()
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    say(
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        free_mib=free // MIB,
        cuda_total_mib=total // MIB,
        listed=mine(nvml()),
        product_reads=cuda_signs.devices(os.getpid()),
        contexts=driver.contexts(),
        files=files(),
    )
    for name in ("bitsandbytes", "cuda-bindings", "cupy", "jax", "numba", "rmm", "tensorflow"):
        with suppress(Exception):
            say(**{f"has_{name}": importlib.import_module("importlib.metadata").version(name)})


@question(
    "Is a process moved off by itself, and back bit for bit? What stays on the GPU, and what does "
    "the machine pay?",
    alone="before",
    seconds=120,
    env={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
)
def basic() -> None:
    import hashlib

    torch = torch_of()
    torch.manual_seed(1)
    big = torch.randn(512 * MIB, device="cuda")
    view = big[100:200]
    square = torch.randn(2048, 2048, device="cuda")
    layer, image = torch.nn.Conv2d(3, 16, 3).cuda(), torch.randn(4, 3, 64, 64, device="cuda")
    heads = torch.randn(2, 8, 128, 64, device="cuda", dtype=torch.bfloat16)

    def work() -> list[str]:
        made = [
            square @ square,
            layer(image),
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).float(),
            torch.fft.rfft(square).real,
            torch.linalg.qr(square[:256, :256])[0],
        ]
        raws = (t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for t in made)
        return [hashlib.sha256(each).hexdigest()[:12] for each in raws]

    first, total = work(), big.double().sum().item()
    pinned = torch.arange(1024.0).pin_memory()
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    x = torch.arange(1024.0, device="cuda")
    with torch.cuda.stream(stream):
        y = x * 2 + 1
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2 + 1
    addresses = [big.data_ptr(), view.data_ptr(), pinned.data_ptr()]
    names = {Path(f"/proc/self/task/{n}/comm").read_text().strip() for n in _threads()}
    say(reserved_mib=torch.cuda.memory_reserved() // MIB, threads=sorted(names))

    def check() -> bool:
        x.fill_(3.0)
        graph.replay()
        torch.cuda.synchronize()
        right = {"graph": y.unique().tolist() == [7.0]}
        with torch.cuda.stream(stream):
            z = pinned.to("cuda", non_blocking=True).sum()
            event.record(stream)
        event.synchronize()
        right["stream"] = z.item() == 1023 * 512
        right["numbers"] = big.double().sum().item() == total
        right["libraries"] = work() == first
        view.add_(1)
        right["view"] = big[100].item() == view[0].item()
        right["addresses"] = [big.data_ptr(), view.data_ptr(), pinned.data_ptr()] == addresses
        say(checks=right)
        return all(right.values())

    there_and_back(check)
    there_and_back(check, tag="second")


def _threads() -> list[str]:
    return [path.name for path in Path("/proc/self/task").iterdir()]


# -- processes that hold nothing -------------------------------------------------------------------


@question("A kernel that only asked NVML: what is its state, and can it give its share back?")
def nvml_only() -> None:
    library, handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
    library.nvmlInit_v2()
    library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    _tell_of_nothing()
    _leave_with_nothing()
    say(lock=raw("Lock", None), unlock=raw("Unlock"))


@question("`torch.cuda.is_available()` and nothing more: can it give its share back?")
def available_only() -> None:
    torch = torch_of()
    say(available=torch.cuda.is_available())
    _tell_of_nothing()
    _leave_with_nothing()
    say(right=torch.ones(4, device="cuda").sum().item() == 4.0)


@question("`torch.cuda.device_count()` alone, which asks NVML: can it give its share back?")
def device_count_only() -> None:
    say(count=torch_of().cuda.device_count())
    _tell_of_nothing()
    _leave_with_nothing()


def _leave_with_nothing() -> None:
    """By the product's own way, which moves nothing where nothing is."""
    from gpu_share_kernel import vacate

    step("off")
    try:
        say(vacated=vacate.vacate())
    except RuntimeError as error:
        say(not_off=str(error))
    step("back")
    vacate.resume()


def _tell_of_nothing() -> None:
    from gpu_share_kernel import cuda_signs, driver, vacate

    say(
        reached=driver.reached(),
        contexts=driver.contexts(),
        no_context=cuda_signs.has_no_context(),
        plan=vacate.plan(),
        get_state=raw("GetState"),
        files=files(),
        listed=mine(nvml()),
    )


# -- ways to have memory ---------------------------------------------------------------------------


def _segments(setting: str) -> dict[str, str]:
    return {"PYTORCH_CUDA_ALLOC_CONF": setting, "PYTORCH_ALLOC_CONF": setting}


def _allocator() -> None:
    torch = torch_of()
    numbers, said = numbers_of(torch, 1024)
    gone = torch.ones(64 * MIB, device="cuda")
    del gone

    def check() -> bool:
        more = torch.ones(64 * MIB, device="cuda").sum().item() == 64 * MIB
        return bool(numbers.sum().item() == said and more)

    there_and_back(check)


@question(
    "PyTorch's expandable segments, whose handles could be exported",
    env=_segments("expandable_segments:True"),
)
def expandable_segments() -> None:
    _allocator()


@question("Pools of cudaMallocAsync", env=_segments("backend:cudaMallocAsync"))
def malloc_async() -> None:
    _allocator()


@question(
    "Managed memory that no check sees: what is lost, and could /proc/self/maps tell?", risky=True
)
def managed() -> None:
    from gpu_share_kernel import cuda

    numbers, said = numbers_of(torch_of(), 256)
    before = mapped("/dev/nvidia-uvm")
    library, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    code = library.cuMemAllocManaged(ctypes.byref(address), ctypes.c_size_t(256 * MIB), 1)
    say(allocated=code, uvm=[before, mapped("/dev/nvidia-uvm")], hindrance=cuda.hindrance())
    ctypes.memset(address.value, 7, 256 * MIB)
    step("lock")
    say(lock=raw("Lock", None))
    step("checkpoint")
    answer, seconds = timed(lambda: raw("Checkpoint"))
    say(checkpoint=answer, seconds_of_it=seconds, state=state())
    step("undo")
    say(undo=cuda._undo(cuda._driver()), state_at_end=state())
    step("go on")
    say(
        right=numbers.sum().item() == said,
        managed_right=ctypes.string_at(address.value, 1) == b"\7",
    )


@question("The same, where the managed memory was freed before")
def managed_exited() -> None:
    numbers, said = numbers_of(torch_of(), 256)
    library, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    library.cuMemAllocManaged(ctypes.byref(address), ctypes.c_size_t(256 * MIB), 1)
    ctypes.memset(address.value, 7, 256 * MIB)
    say(freed=library.cuMemFree_v2(address), uvm=mapped("/dev/nvidia-uvm"))
    there_and_back(lambda: numbers.sum().item() == said)


@question("A tensor whose handle was exported, which nobody has opened", risky=True)
def ipc_exported() -> None:
    torch = torch_of()
    numbers, said = numbers_of(torch, 256)
    reductions = importlib.import_module("torch.multiprocessing.reductions")
    reductions.reduce_tensor(numbers)
    there_and_back(lambda: numbers.sum().item() == said)
    say(exported_again=bool(reductions.reduce_tensor(torch.ones(4, device="cuda"))))
