"""Simulated GPU memory, as processes with shares see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.local._simulated import simulated_use
from jupyter_gpu_share.kernel_side import PATH

GIB = 2**30


class Kernel:
    """A Python that runs lines one by one, with a share of 20 of 30 GiB."""

    def __init__(self, folder: Path, uuid: str = "SIM-0") -> None:
        env = {
            **os.environ,
            "PYTHONPATH": str(PATH),
            "JUPYTER_GPU_SHARE_UUID": uuid,
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
            "JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(30 * GIB),
            "JUPYTER_GPU_SHARE_SIMULATED_DIR": str(folder),
        }
        loop = (
            "import sys\n"
            "from gpu_share_kernel import simulated\n"
            "for line in sys.stdin:\n"
            "    try:\n"
            "        exec(line)\n"
            "    except Exception as error:\n"
            "        print(f'{type(error).__name__}: {error}')\n"
            "    print('.', flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", loop],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, line: str) -> str:
        """What the line printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        said = []
        while (answer := self.process.stdout.readline()) not in (".\n", ""):
            said.append(answer.rstrip("\n"))
        return "\n".join(said)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def two(tmp_path: Path) -> object:
    kernels = [Kernel(tmp_path), Kernel(tmp_path)]
    yield (*kernels, tmp_path)
    for kernel in kernels:
        kernel.close()


def test_more_than_the_share_is_refused_in_that_kernel_only(
    two: tuple[Kernel, Kernel, Path],
) -> None:
    one, other, folder = two
    assert one.run("a = simulated.allocate('12GiB')") == ""
    refused = one.run("b = simulated.allocate('9GiB')")
    assert refused == (
        "OutOfMemoryError: Tried to allocate 9 GiB: this kernel's share is 20 GiB, of which "
        "12 GiB is in use (simulated GPU)."
    )
    assert other.run("c = simulated.allocate('9GiB'); print(simulated.memory())") == str(
        (9 * GIB, 20 * GIB)
    )
    assert one.run("print(isinstance(simulated.OutOfMemoryError(), MemoryError))") == "True"
    use = simulated_use(folder, [one.process.pid, other.process.pid])
    assert use[one.process.pid].used == {"SIM-0": 12 * GIB}


def test_the_device_has_its_own_limit(two: tuple[Kernel, Kernel, Path]) -> None:
    one, other, _ = two
    one.run("a = simulated.allocate('20GiB')")
    said = other.run("b = simulated.allocate('11GiB')")
    assert "the device has 30 GiB, of which 20 GiB is in use by all kernels" in said
    one.close()
    assert other.run("b = simulated.allocate('11GiB')") == "", "the dead hold nothing"


def test_memory_is_given_back(two: tuple[Kernel, Kernel, Path]) -> None:
    one, _, _ = two
    one.run("a = simulated.allocate('20GiB')")
    one.run("a.free(); a.free()")
    one.run("a = simulated.allocate('20GiB'); del a")
    assert one.run("with simulated.allocate(5) as b: print(b, b.nbytes)") == (
        "<simulated GPU memory: 5 B> 5"
    )
    assert one.run("print(b, simulated.memory()[0])") == "<simulated GPU memory: freed> 0"


def test_code_that_no_cap_stops(two: tuple[Kernel, Kernel, Path]) -> None:
    one, _, _ = two
    assert one.run("a = simulated.allocate('25GiB', beyond_share=True)") == ""
    assert one.run("print(simulated.memory()[0] // 2**30)") == "25"


async def test_work_shows(two: tuple[Kernel, Kernel, Path]) -> None:
    one, _, folder = two
    one.run("import threading; t = threading.Thread(target=simulated.work, args=(9,), daemon=True)")
    one.run("t.start()")
    pid = one.process.pid
    await eventually(
        lambda: (use := simulated_use(folder, [pid]).get(pid)) and use.busy, "the work shows"
    )


def test_a_forked_child_starts_with_nothing(two: tuple[Kernel, Kernel, Path]) -> None:
    one, _, _ = two
    one.run("a = simulated.allocate('5GiB'); import os")
    one.run("pid = os.fork() or os._exit(0 if simulated.memory()[0] == 0 else 1)")
    assert one.run("print(os.waitpid(pid, 0)[1])") == "0"
    assert one.run("print(simulated.memory()[0] // 2**30)") == "5"


@pytest.mark.parametrize("amount", ["'lots'", "0", "-5", "'1.2.3GiB'", "None", "True"])
def test_what_is_no_amount(two: tuple[Kernel, Kernel, Path], amount: str) -> None:
    assert "is no amount of memory" in two[0].run(f"simulated.allocate({amount})")


def test_a_kernel_without_a_simulated_share(tmp_path: Path) -> None:
    for uuid, what in (("GPU-1", "a real GPU"), ("", "no GPU")):
        kernel = Kernel(tmp_path, uuid)
        # An engine tells what the whole device has for simulated ones only.
        kernel.run("import os; os.environ.pop('JUPYTER_GPU_SHARE_SIMULATED_BYTES', None)")
        said = kernel.run("simulated.allocate('1GiB')")
        assert (
            said == f"RuntimeError: This kernel has {what}: there is no simulated memory to take."
        )
        kernel.close()
