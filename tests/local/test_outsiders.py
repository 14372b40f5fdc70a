"""Which processes on a GPU belong to a kernel, and which to none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import CLAIM_VARIABLE, Holder, this_process
from jupyter_gpu_share.engines.local import _inventory, _machine, _usage
from jupyter_gpu_share.engines.local._contents import Claim
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._inventory import Inventory, OpenedGpus, all_use
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._machine import Machine
from jupyter_gpu_share.engines.local._outsiders import Outsider, outsiders
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

T = TypeVar("T")

TOKEN = "a" * 32
#: A child, one in a session of its own, and one whose parent has ended; as a kernel's cells do.
KERNEL = """
import os, subprocess, sys
sleep = ["sleep", "999"]
plain = subprocess.Popen(sleep)
apart = subprocess.Popen(sleep, start_new_session=True)
left = subprocess.run(["sh", "-c", "sleep 999 >&2 & echo $!"], stdout=subprocess.PIPE, text=True)
print(plain.pid, apart.pid, left.stdout.strip(), flush=True)
plain.wait()
"""


@contextmanager
def started(*argv: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        try:
            # For a moment after its start a process has no environment that could be read.
            until(Path(f"/proc/{process.pid}/environ").read_bytes, "it has its environment")
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)


def found(pids: list[int], *claims: Claim) -> set[int]:
    """Those of the processes that use a GPU without a share."""
    opened = OpenedGpus({"GPU-1": 1}, draws=False)
    return {each.process.pid for each in outsiders({Holder.of(p): opened for p in pids}, claims)}


def claim(kernel: int | None = None) -> Claim:
    process = None if kernel is None else Holder.of(kernel)
    return Claim(TOKEN, "k", Size.parse("1/2"), this_process(), here(), kernel=process)


def test_what_a_kernel_has_started_is_its_own() -> None:
    with ExitStack() as stack:
        kernel = stack.enter_context(started(sys.executable, "-c", KERNEL))
        assert kernel.stdout is not None
        children = [int(pid) for pid in kernel.stdout.readline().split()]
        for pid in children:
            stack.callback(os.kill, pid, signal.SIGKILL)
        everything = [kernel.pid, *children]
        assert found(everything, claim(kernel.pid)) == set()
        assert found(everything, claim()) == set(everything)
        assert found(everything) == set(everything)


def test_what_carries_a_claim_is_its_kernels_though_none_is_noted_yet() -> None:
    with (
        started("sleep", "999", env={CLAIM_VARIABLE: TOKEN}) as marked,
        started("sleep", "999", env={CLAIM_VARIABLE: "b" * 32}) as other,
    ):
        assert found([marked.pid, other.pid], claim()) == {other.pid}


def test_who_it_is() -> None:
    with started("sleep", "999") as process:
        (one,) = outsiders({Holder.of(process.pid): OpenedGpus({"GPU-1": None}, draws=True)}, [])
        assert (one.uid, one.command, one.used, one.draws) == (
            os.getuid(), "sleep", {"GPU-1": None}, True,
        )  # fmt: skip
        later = Holder(process.pid, "1")
        assert outsiders({later: OpenedGpus({"GPU-1": None}, draws=True)}, []) == []
    assert found([process.pid]) == set(), "it has ended"


async def test_who_cannot_be_looked_for_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu, ledger = Gpu("GPU-1", "A100", 0, 2**30), Ledger(tmp_path / "ledger.db")

    async def at_ledger(work: Callable[[Ledger], T]) -> T:
        return work(ledger)

    async def seen(gpus: Sequence[Gpu], found: Sequence[Outsider]) -> None:
        raise AssertionError("nothing is known")

    def fails(gpus: Sequence[Gpu]) -> dict[Holder, OpenedGpus]:
        raise NoGpuError("The driver does not answer.")

    monkeypatch.setattr(_machine, "inventory", lambda simulate: Inventory((gpu,)))
    monkeypatch.setattr(_machine, "users_of", fails)
    monkeypatch.setattr(_usage, "real_use", lambda gpus, pids: {})
    machine = Machine(at_ledger, lambda: None, lambda: "", lambda: tmp_path, seen)
    assert (await machine.gpus()).gpus == (gpu,)
    assert "is not known now: The driver does not answer." in caplog.text
    assert ledger.claim("k", Size.parse("1"), this_process(), {}).held
    ledger.close()


class Nvml:
    """Tells which processes compute and which draw; numbers of bytes by process."""

    NVMLError = RuntimeError

    def __init__(self, computes: dict[int, int | None], draws: dict[int, int | None]) -> None:
        self._lists = computes, draws

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid == "GPU-lost":
            raise RuntimeError(uuid)
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=n) for p, n in self._lists[0].items()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=n) for p, n in self._lists[1].items()]


def test_what_draws_is_told_from_what_only_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml({1: 10, 2: None, 3: 0, 4: 20}, {4: 20, 5: 30})
    monkeypatch.setattr(_inventory, "_nvml", lambda: nullcontext(nvml))
    monkeypatch.setattr(_inventory, "counts_as_driver", lambda: True)
    gpus = [Gpu(uuid, "A100", 0, 2**30) for uuid in ("GPU-lost", "GPU-1")]
    assert all_use(gpus) == {
        1: OpenedGpus({"GPU-1": 10}, draws=False),
        2: OpenedGpus({"GPU-1": None}, draws=False),
        4: OpenedGpus({"GPU-1": 20}, draws=True),
        5: OpenedGpus({"GPU-1": 30}, draws=True),
    }
    monkeypatch.setattr(_inventory, "counts_as_driver", lambda: False)
    assert all_use(gpus) == {}, "the driver's numbers mean other processes here"
