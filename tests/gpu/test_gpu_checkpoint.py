"""NVIDIA's process checkpoint on a real GPU; `make test-gpu` runs this where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_process import OUT_OF_REACH, Device, GpuProcess

MIB, GIB = 2**20, 2**30

Start = Callable[..., GpuProcess]

# -- there and back --------------------------------------------------------------------------------

#: A loop whose every step depends on all before it: weights, Adam's moments, and the random numbers
#: of dropout on the GPU and of the batches on the host.
TRAINING = """
import hashlib
torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
model = torch.nn.Sequential(
    torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Dropout(0.2),
    torch.nn.Linear(2048, 2048), torch.nn.LayerNorm(2048), torch.nn.GELU(),
    torch.nn.Linear(2048, 10),
).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []

def train(steps):
    for _ in range(steps):
        data, labels = torch.randn(256, 512), torch.randint(0, 10, (256,))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data.cuda()), labels.cuda())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

def digest():
    seen = hashlib.sha256()
    tensors = [*model.state_dict().values(), *losses, torch.cuda.get_rng_state()]
    for state in optimizer.state.values():
        tensors += [state["step"], state["exp_avg"], state["exp_avg_sq"]]
    tensors += [p.grad for p in model.parameters()]
    for tensor in tensors:
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        seen.update(flat.view(torch.uint8).numpy().tobytes())
    return [seen.hexdigest(), [loss.item() for loss in losses]]
"""


@pytest.mark.usefixtures("able")
def test_a_training_loop_goes_on_bit_for_bit(start: Start) -> None:
    undisturbed, moved = start(), start()
    for process in (undisturbed, moved):
        process.do(TRAINING)
        process.do("train(20)")
    for _ in range(3):
        assert moved.get("cuda.vacate()") > 0
        assert moved.state == "CHECKPOINTED"
        moved.get("cuda.resume()")
        assert moved.state == "RUNNING"
        for process in (undisturbed, moved):
            process.do("train(10)")
    assert moved.get("digest()") == undisturbed.get("digest()")


@pytest.mark.usefixtures("able")
def test_streams_events_graphs_and_pinned_memory_come_back(start: Start) -> None:
    process = start()
    process.do(
        "stream, event = torch.cuda.Stream(), torch.cuda.Event()\n"
        "x = torch.arange(1024., device='cuda'); pinned = torch.arange(64.).pin_memory()\n"
        "warm = torch.cuda.Stream()\n"
        "with torch.cuda.stream(warm): y = x * 2 + 1\n"
        "torch.cuda.synchronize(); graph = torch.cuda.CUDAGraph()\n"
        "with torch.cuda.graph(graph): y = x * 2 + 1\n"
        "address = [x.data_ptr(), pinned.data_ptr()]"
    )
    process.get("cuda.vacate()")
    assert process.get("pinned.sum().item()") == 64 * 63 / 2, "the host's memory stays readable"
    process.get("cuda.resume()")
    process.do("x.fill_(3.0); graph.replay(); torch.cuda.synchronize()")
    assert process.get("y.unique().tolist()") == [7.0]
    process.do(
        "with torch.cuda.stream(stream): z = pinned.to('cuda', non_blocking=True).sum(); "
        "event.record(stream)\n"
        "event.synchronize()"
    )
    assert process.get("z.item()") == 64 * 63 / 2
    assert process.get("[x.data_ptr(), pinned.data_ptr()] == address")


@pytest.mark.usefixtures("able")
def test_a_thread_that_calls_cuda_meanwhile_waits_and_goes_on(start: Start) -> None:
    process = start()
    process.do("a = torch.ones(8, device='cuda'); said = []")
    process.get("cuda.vacate()")
    process.do(
        "thread = threading.Thread(target=lambda: said.append((a * 2).sum().item()), daemon=True)\n"
        "thread.start(); time.sleep(1)"
    )
    assert process.get("[said, thread.is_alive()]") == [[], True]
    process.get("cuda.resume()")
    process.do("thread.join(30)")
    assert process.get("said") == [16.0]


# -- the memory ------------------------------------------------------------------------------------


def free_soon(device: Device, wanted: int, patience: float = 15.0) -> int:
    """Bytes that are free, as soon as they are as many as wanted; a server waits as long."""
    end = time.monotonic() + patience
    while (free := int(device.memory.free)) < wanted and time.monotonic() < end:
        time.sleep(0.05)
    return free


@pytest.mark.usefixtures("able")
def test_the_share_is_somebody_elses_meanwhile(
    start: Start, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, other = start(), start(JUPYTER_GPU_SHARE_MEMORY_BYTES=str(device.memory.total))
    owner.do(f"mine = torch.arange({2 * GIB} // 8, device='cuda'); torch.cuda.synchronize()")
    said = owner.get("mine.sum().item()")
    before = int(device.memory.free)
    moved = owner.get("cuda.vacate()")
    assert moved >= 2 * GIB
    assert free_soon(device, before + 2 * GIB) >= before + 2 * GIB, "its memory is free"
    assert owner.get("cuda_signs.devices(os.getpid())[cuda_signs.uuids()[0]][0]") in (None, 0)
    left = owner.get(
        "[os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd')"
        " if os.path.exists('/proc/self/fd/' + n)]"
    )
    left = [path for path in left if path.startswith("/dev/nvidia")]
    with capsys.disabled():
        print(f"\nfiles of the driver that a process off its GPU has open: {left or 'none'}")
    # All but half of what the owner needs. What it held is overwritten.
    other.do(
        "torch.zeros(1, device='cuda')\n"
        f"size = torch.cuda.mem_get_info()[0] - {GIB}\n"
        "theirs = torch.full((size,), 170, dtype=torch.uint8, device='cuda')\n"
        "torch.cuda.synchronize()"
    )
    assert "has no room" in owner.fails("cuda.resume()")
    assert owner.state == "CHECKPOINTED", "the driver was not asked to restore it"
    assert other.get("[theirs.min().item(), theirs.max().item()]") == [170, 170]
    other.close()
    free_soon(device, before)
    owner.get("cuda.resume()")
    assert owner.state == "RUNNING"
    assert owner.get("mine.sum().item()") == said


@pytest.mark.usefixtures("able")
def test_how_fast_it_is_beside_the_bus(
    start: Start, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed, not asserted: the machine may be busy with something else."""
    process = start()
    room = process.get("cuda_signs.host_memory()")
    nbytes = min(8 * GIB, device.memory.free // 3, room // 3) // MIB * MIB
    process.do(
        f"host = torch.empty({min(nbytes, GIB)}, dtype=torch.uint8).pin_memory()\n"
        "gpu = torch.empty_like(host, device='cuda')\n"
        "def speed(to, source):\n"
        "    to.copy_(source); torch.cuda.synchronize(); start = time.perf_counter()\n"
        "    for _ in range(4): to.copy_(source, non_blocking=True)\n"
        "    torch.cuda.synchronize()\n"
        "    return 4 * host.nbytes / (time.perf_counter() - start)\n"
        "bus = [speed(host, gpu), speed(gpu, host)]\n"
        "del host, gpu; torch.cuda.empty_cache()\n"
        f"mine = torch.empty({nbytes}, dtype=torch.uint8, device='cuda').random_(0, 256)\n"
        "torch.cuda.synchronize()\n"
        "def timed(what):\n"
        "    start = time.perf_counter(); what(); return time.perf_counter() - start"
    )
    rows = [
        (process.get("timed(cuda.vacate)"), process.get("timed(cuda.resume)")) for _ in range(3)
    ]
    off, back = (min(seconds) for seconds in zip(*rows, strict=True))
    to_host, to_gpu = process.get("bus")
    model = process.get("torch.cuda.get_device_name(0)")
    with capsys.disabled():
        print(f"\n{nbytes / GIB:.1f} GiB on {model}, best of {len(rows)}:")
        for what, seconds, bus in (("off", off, to_host), ("back", back, to_gpu)):
            speed = nbytes / seconds / 1e9
            print(
                f"  {what:4} {seconds:6.2f} s, {speed:6.1f} GB/s: "
                f"{speed * 1e9 / bus:4.0%} of a pinned copy ({bus / 1e9:.1f} GB/s)"
            )


# -- what is refused -------------------------------------------------------------------------------


#: What to do first, and a part of what is said.
REFUSED = {
    "NCCL": (
        (
            "torch.distributed.init_process_group('nccl', rank=0, world_size=1,"
            " init_method='file://' + os.path.abspath('store'))\n"
            "torch.distributed.all_reduce(torch.ones(1, device='cuda'))"
        ),
        "PyTorch's process group uses NCCL",
    ),
    "managed memory of CuPy": (
        (
            "import cupy\n"
            "cupy.cuda.set_allocator(cupy.cuda.MemoryPool(cupy.cuda.malloc_managed).malloc)\n"
            "mine = cupy.ones(8)"
        ),
        "CuPy's allocator was replaced",
    ),
    "managed memory of Numba": (
        "from numba import cuda as numba_cuda; mine = numba_cuda.managed_array(8)",
        "a `managed_array` of Numba",
    ),
    "managed memory of RMM": (
        "import rmm; rmm.reinitialize(managed_memory=True, pool_allocator=True)",
        "RMM gives it",
    ),
    "another process that it started": (
        (
            "import subprocess\n"
            "code = 'import torch; torch.ones(1).cuda(); print(1, flush=True); input()'\n"
            "child = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE,\n"
            "                         stdout=subprocess.PIPE)\n"
            "child.stdout.readline()"
        ),
        "Child processes use the GPU",
    ),
    "too little memory of the machine": (
        "cuda_signs.host_memory = lambda: 0",
        "The machine's memory has no room",
    ),
    "a process that is locked": (
        "driver = cuda._driver(); driver.cuCheckpointProcessLock(os.getpid(), None)",
        "locked for this process already",
    ),
}
NEEDED = {"CuPy": "cupy", "Numba": "numba", "RMM": "rmm"}


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, start: Start) -> None:
    before, said = REFUSED[what]
    process = start()
    process.do("a = torch.arange(8, device='cuda')")
    module = NEEDED.get(what.rpartition(" ")[2])
    if module:
        kind, _ = process.ask("exec", f"import {module}")
        if kind != "ok":
            pytest.skip(f"{module} is not there, so what it does is not tried.")
    process.do(before)
    assert said in process.get("cuda.hindrance()")
    process.do("cuda.resume()")
    assert process.state == "RUNNING"
    assert process.get("a.tolist()") == list(range(8)), "it goes on as before"
    process.do("'child' in globals() and child.kill()")


def test_what_is_refused_by_the_environment(start: Start, tmp_path: Path) -> None:
    for env, said in (
        ({"TF_FORCE_UNIFIED_MEMORY": "1"}, "`TF_FORCE_UNIFIED_MEMORY` is set"),
        ({"JUPYTER_GPU_SHARE_ISOLATION": "mps"}, "uses MPS"),
        ({"JUPYTER_GPU_SHARE_ISOLATION": "hardware"}, "on a MIG instance"),
    ):
        process = start(**env)
        process.do("torch.zeros(1, device='cuda')")
        why = process.get("cuda.hindrance()")
        assert said in why or any(part in why for part in OUT_OF_REACH), why
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").write_text("raise ImportError('left out for a test')")
    process = start(path=str(tmp_path))
    assert "`cuda-bindings` (12.8 or newer) is needed" in process.get("cuda.hindrance()")
