"""The limits of a living kernel: variables, and what frameworks have made of them.

The frameworks are fakes of a few lines, and so is what the driver tells; no GPU is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from frameworks import FAKE_CUPY, write_fakes
from sessions import Sessions
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

GIB = 2**30
#: What a server asks for where the kernel gets so many GiB of the 80 of its GPU.
SHARE = """
import os
from gpu_share_kernel import cuda_signs, driver, limits, vacate
def share(gib):
    return {"JUPYTER_GPU_SHARE_MEMORY_BYTES": str(gib * 2**30),
            "JUPYTER_GPU_SHARE_FRACTION": "%d/80" % gib,
            "CUPY_GPU_MEMORY_LIMIT": str(gib * 2**30) if gib < 80 else None}
def told(): return int(os.environ["JUPYTER_GPU_SHARE_MEMORY_BYTES"]) >> 30
def refused(gib):
    before = dict(os.environ)
    try: limits.change(share(gib))
    except RuntimeError as error: print(error, dict(os.environ) == before)
"""


def opened(used: int | None) -> str:
    """The driver is open, and NVML tells so many bytes in use."""
    return (
        "driver.reached = lambda: True\n"
        f"cuda_signs.devices = lambda pid: {{'GPU-0': (0, 1), 'GPU-1': ({used}, 1)}}\n"
    )


@pytest.fixture
def frameworks(tmp_path: Path) -> Path:
    """A folder with the fakes."""
    write_fakes(tmp_path)
    (tmp_path / "cupy.py").write_text(FAKE_CUPY)
    (tmp_path / "jax.py").write_text("")
    return tmp_path


def run(code: str, *path: Path, **env: str) -> list[str]:
    """What Python prints as in a kernel with a share of 20 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", SHARE + code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [PATH, *path])),
            "JUPYTER_GPU_SHARE_UUID": "GPU-0,GPU-1",
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
            "CUPY_GPU_MEMORY_LIMIT": str(20 * GIB),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_variables_are_set_and_removed() -> None:
    code = "limits.change(share(40)); print(told(), os.environ['CUPY_GPU_MEMORY_LIMIT'])\n"
    code += "limits.change(share(80)); print(told(), 'CUPY_GPU_MEMORY_LIMIT' in os.environ)\n"
    code += "print(limits.given['CUPY_GPU_MEMORY_LIMIT'], limits.given == share(80))\n"
    assert run(code) == [f"40 {40 * GIB}", "80 False", "None True"]


def test_torch_follows_at_once_where_cuda_is_up(frameworks: Path) -> None:
    code = "import torch; c = torch.cuda; c.init(); c.calls.clear()\n"
    code += opened(GIB) + "limits.change(share(40)); print(c.calls)\n"
    code += "c.calls.clear(); limits.change(share(40)); print(c.calls)\n"
    code += "limits.change(share(10)); print(c.calls)"
    assert run(code, frameworks) == [
        "[(0.5, 0), (0.5, 1)]",
        "[]",
        "['empty_cache', (0.125, 0), (0.125, 1)]",
    ]


def test_torch_takes_the_new_limit_when_cuda_comes_up_later(frameworks: Path) -> None:
    code = "import torch; c = torch.cuda; limits.change(share(40)); print(c.calls)\n"
    code += "c.init(); print(set(c.calls))"
    assert run(code, frameworks) == ["[]", str({(0.5, 0), (0.5, 1)})]


def test_torch_that_is_imported_later_takes_the_new_limit(frameworks: Path) -> None:
    code = "limits.change(share(40)); import torch; torch.cuda.init(); print(torch.cuda.calls)"
    assert run(code, frameworks) == ["[(0.5, 0), (0.5, 1)]"]


def test_cupy_follows_on_every_gpu(frameworks: Path) -> None:
    code = "import cupy\n" + opened(GIB) + "limits.change(share(40)); print(cupy.limits)\n"
    code += "limits.change(share(10)); print(cupy.limits, cupy.freed)\n"
    code += "limits.change(share(80)); print(cupy.limits, cupy.current)"
    assert run(code, frameworks) == [
        str({0: 40 * GIB, 1: 40 * GIB}),
        f"{ {0: 10 * GIB, 1: 10 * GIB} } [True]",
        "{0: 0, 1: 0} [0]",
    ]


def test_a_lower_limit_of_a_cell_is_kept_in_cupy(frameworks: Path) -> None:
    code = "import cupy; pool = cupy.get_default_memory_pool()\n" + opened(GIB)
    code += f"pool.set_limit(size=15 * {GIB})\n"
    for gib in (40, 10, 80):
        code += f"limits.change(share({gib})); print([n >> 30 for n in cupy.limits.values()])\n"
    code += f"pool.set_limit(size=2 * {GIB}); limits.change(share(40))\n"
    code += "print([n >> 30 for n in cupy.limits.values()])"
    found = run(code, frameworks, CUPY_GPU_MEMORY_LIMIT=str(20 * GIB))
    assert found == ["[15, 40]", "[10, 10]", "[15, 0]", "[2, 40]"]


def test_cupy_that_has_not_opened_the_gpu_is_left_alone(frameworks: Path) -> None:
    code = "import cupy; limits.change(share(40)); print(limits.look(), cupy.limits, cupy.freed)"
    assert run(code, frameworks) == ["{'used': 0, 'why': ''} {} []"]


@pytest.mark.parametrize(("module", "name"), [("tensorflow", "TensorFlow"), ("jax", "JAX")])
def test_frameworks_that_take_their_limit_once(frameworks: Path, module: str, name: str) -> None:
    code = f"import {module}; print(limits.look()['why']); refused(10); print(told())"
    why = f"{name} keeps to the limit that it was started with."
    assert run(code, frameworks) == [why, f"{why} True", "20"]
    # A simulated GPU's cap is none of theirs.
    simulated = {"JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(80 * GIB)}
    assert run(f"import {module}; print(limits.look())", frameworks, **simulated) == [
        "{'used': 0, 'why': ''}"
    ]


def test_less_than_what_is_in_use_is_refused_and_nothing_changes(frameworks: Path) -> None:
    code = "import torch, cupy; c = torch.cuda; c.init(); c.calls.clear()\n" + opened(15 * GIB)
    code += "refused(10); print(told(), limits.given, c.calls, cupy.limits)\n"
    code += "limits.change(share(15)); print(told())"
    assert run(code, frameworks) == [
        "The kernel uses 15360 MiB of its GPU. True",
        "20 {} ['empty_cache'] {}",
        "15",
    ]


def test_use_that_cannot_be_read_keeps_the_limits() -> None:
    why = "How much of its GPU the kernel uses cannot be read."
    code = opened(None) + "print(limits.look()); refused(10); limits.change(share(40))\n"
    code += "print(told()); cuda_signs.devices = lambda pid: None; print(limits.look())"
    found = str({"used": None, "why": why})
    assert run(code) == [found, f"{why} True", "40", found]


def test_a_framework_that_does_not_take_them_keeps_the_old_ones_everywhere(
    frameworks: Path,
) -> None:
    code = "import torch, cupy; c = torch.cuda; c.init(); c.calls.clear()\n" + opened(GIB)
    code += (
        "class Broken:\n"
        "    def get_limit(self): return 0\n"
        "    def set_limit(self, size=None):\n"
        "        raise RuntimeError('CuPy has no such limit.')\n"
        "cupy.get_default_memory_pool = Broken\n"
        "refused(40); print(told(), c.calls[-1])"
    )
    assert run(code, frameworks) == ["CuPy has no such limit. True", "20 (0.25, 1)"]


def test_what_was_told_while_away_reaches_frameworks_at_the_second_try(frameworks: Path) -> None:
    """The first way back fails: nothing is put into frameworks before the GPU is there."""
    code = "import torch; c = torch.cuda; c.init(); c.calls.clear()\n"
    code += (
        "from gpu_share_kernel import asked\n"
        "def full(): raise RuntimeError('no room')\n"
        "there, vacate.resume = vacate.resume, full\n"
        "try: asked._resume(share(40))\n"
        "except RuntimeError as error: print(error, c.calls)\n"
        "vacate.resume = there; asked._resume(share(40)); print(told(), c.calls)\n"
        "c.calls.clear(); asked._resume(share(40)); print(c.calls)"
    )
    assert run(code, frameworks) == ["no room []", "40 [(0.5, 0), (0.5, 1)]", "[]"]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Sessions]:
    """Kernels with a client each."""
    with closing(Sessions(tmp_path, ahead=0)) as made:
        yield made


@pytest.mark.slow
def test_limits_are_not_brought_into_another_share(house: Sessions) -> None:
    """Variables of the user's are; those that a share came with are given anew."""
    names = ("CUPY_GPU_MEMORY_LIMIT", "XLA_PYTHON_CLIENT_MEM_FRACTION", "MINE")
    look = f"[__import__('os').environ.get(name) for name in {names!r}]"
    share = {"JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB), "CUPY_GPU_MEMORY_LIMIT": "20"}
    first = house.start(**share, XLA_PYTHON_CLIENT_MEM_FRACTION="0.2500", MINE="1")
    first.run("import os; os.environ['MINE'] = '2'")
    other = {
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(80 * GIB),
        "CUPY_GPU_MEMORY_LIMIT": "40",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": None,
    }
    first.ask(f"change({other!r})", "limits")
    assert first.value(look) == ["40", None, "2"]
    first.ask(f"save({str(house.file)!r})")
    second = house.start(**share, XLA_PYTHON_CLIENT_MEM_FRACTION="0.1250", MINE="1")
    second.ask(f"restore({str(house.file)!r})")
    assert second.value(look) == ["20", "0.1250", "2"]
    # What the user has set over it since is the user's.
    first.run("os.environ['CUPY_GPU_MEMORY_LIMIT'] = '5'")
    first.ask(f"save({str(house.file)!r})")
    third = house.start(**share, XLA_PYTHON_CLIENT_MEM_FRACTION="0.1250", MINE="1")
    third.ask(f"restore({str(house.file)!r})")
    assert third.value(look) == ["5", "0.1250", "2"]
