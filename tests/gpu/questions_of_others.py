"""Questions: other processes, libraries and threads beside a move."""

from __future__ import annotations

import importlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpu_asked import (
    SCALE,
    back,
    files,
    mapped,
    off,
    pause,
    say,
    state,
    step,
    there_and_back,
    timed,
)
from gpu_registry import QUESTIONS, Question, first_line, numbers_of, question, torch_of

# -- other processes, and what else goes on --------------------------------------------------------


@question(
    "A child that was forked after CUDA was used, as workers of a DataLoader are: is it seen, and "
    "does it keep the memory on the GPU?",
    risky=True,
)
def forked_child() -> None:
    from gpu_share_kernel import background, cuda, cuda_signs

    numbers, said = numbers_of(torch_of(), 2048)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        say(files_of_child=files(child), seen=cuda_signs.children(), hindrance=cuda.hindrance())
        say(background=background.running()[:3])
        there_and_back(lambda: numbers.sum().item() == said)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@question("fork and subprocess while the process is away: does CUDA hold them up?", seconds=60)
def fork_while_away() -> None:
    ones, said = numbers_of(torch_of(), 64)
    off()
    for name, command in (
        ("subprocess", partial(subprocess.run, ["true"], check=True)),
        ("with_fork", partial(subprocess.run, ["true"], check=True, preexec_fn=lambda: None)),
    ):
        step(name)
        say(**{f"{name}_s": timed(command)[1]})
    step("os.fork")
    child = os.fork()
    if child == 0:
        os._exit(0)
    say(fork=os.waitpid(child, 0)[1])
    step("back")
    back()
    say(right=ones.sum().item() == said)


@question("After torch.profiler, which uses CUPTI: refused, or lost?", risky=True)
def profiler() -> None:
    torch = torch_of()
    numbers, said = numbers_of(torch, 256)
    module = importlib.import_module("torch.profiler")
    kinds = [module.ProfilerActivity.CPU, module.ProfilerActivity.CUDA]
    with module.profile(activities=kinds) as found:
        (numbers * 2).sum().item()
    say(events=len(found.key_averages()), cupti=mapped("libcupti")[0] > 0)
    there_and_back(lambda: numbers.sum().item() == said)


@question("After torch.compile: what works on, and what do the checks say of it?", seconds=150)
def compiled() -> None:
    from gpu_share_kernel import background, cuda, cuda_signs, readings

    torch = torch_of()
    function = torch.compile(lambda x: torch.relu(x * 2 + 1).sum())
    ones = torch.ones(4096, 4096, device="cuda")
    said = function(ones).item()
    torch.cuda.synchronize()
    for seconds in (0, 15):
        pause(seconds)
        found = background.running(), cuda_signs.children(), cuda.hindrance()
        say(**{f"after_{seconds}_s": found})
    family = sorted(readings.tree(os.getpid()) - {os.getpid()})
    commands = {pid: first_line(f"/proc/{pid}/cmdline") or "" for pid in family}
    say(family={pid: text.replace("\0", " ")[:90] for pid, text in commands.items()})
    there_and_back(lambda: function(ones).item() == said)


def _nccl(torch: Any) -> tuple[Any, Any]:
    groups = importlib.import_module("torch.distributed")
    store = Path(tempfile.mkdtemp()) / "store"
    groups.init_process_group("nccl", rank=0, world_size=1, init_method=f"file://{store}")
    ones = torch.ones(1024, device="cuda")
    groups.all_reduce(ones)
    torch.cuda.synchronize()
    return groups, ones


@question("NCCL was used, and its group was destroyed: is it moved?")
def nccl_gone() -> None:
    from gpu_share_kernel import cuda

    groups, ones = _nccl(torch_of())
    say(with_group=cuda.hindrance())
    groups.destroy_process_group()
    there_and_back(lambda: ones.sum().item() == 1024)


@question(
    "NCCL in use, past our check: does the driver refuse, hang, or lose it?", seconds=60, risky=True
)
def nccl_alive() -> None:
    _, ones = _nccl(torch_of())
    there_and_back(lambda: ones.sum().item() == 1024)


@question("A lock while the GPU works for longer than we wait: what does it answer?")
def busy_lock() -> None:
    torch = torch_of()
    ones = torch.ones(4, device="cuda")
    torch.cuda.synchronize()
    for _ in range(30):
        torch.cuda._sleep(1_400_000_000)  # cycles: about a second
    step("off")
    try:
        say(off_s=timed(off)[1])
        back()
    except Exception as error:
        say(not_off=str(error))
    say(state=state())
    torch.cuda.synchronize()
    say(right=ones.sum().item() == 4)


# -- threads that call CUDA meanwhile --------------------------------------------------------------

#: What a thread does with tensors, by the name of its question.
_CALLS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "an_operation": lambda torch, held: (held["a"] * 2).sum().item(),
    "mem_get_info": lambda torch, held: torch.cuda.mem_get_info(),
    "synchronize": lambda torch, held: torch.cuda.synchronize(),
    "event": lambda torch, held: torch.cuda.Event().record(),
    "stream": lambda torch, held: torch.cuda.Stream(),
    "pinned": lambda torch, held: torch.empty(2**22, pin_memory=True),
    "free_recorded": lambda torch, held: held.pop("recorded"),
    "empty_cache": lambda torch, held: torch.cuda.empty_cache(),
    "graph_replay": lambda torch, held: held["graph"].replay(),
}


def _gil(call: Callable[[Any, dict[str, Any]], Any]) -> None:
    torch = torch_of()
    recorded = torch.ones(2**24, device="cuda")
    held: dict[str, Any] = {"a": torch.ones(1024, device="cuda"), "recorded": recorded}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        (recorded * 2).sum()
    recorded.record_stream(stream)
    del recorded
    cached = torch.ones(2**26, device="cuda")
    del cached
    torch.cuda.synchronize()
    held["graph"] = torch.cuda.CUDAGraph()
    with torch.cuda.graph(held["graph"]):
        held["b"] = held["a"] * 2
    off()
    done = threading.Event()

    def work() -> None:
        call(torch, held)
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    step("the thread's call")
    thread.start()
    waits = not done.wait(2 * SCALE)
    say(waits=waits, main_goes_on=True)
    step("back")
    back()
    say(finished=done.wait(20))


for _name, _call in _CALLS.items():
    QUESTIONS[f"gil_{_name}"] = Question(
        f"gil_{_name}",
        "A thread that calls this while the process is away: does it hold Python's lock? Then the "
        "kernel is lost.",
        partial(_gil, _call),
        seconds=45,
    )
