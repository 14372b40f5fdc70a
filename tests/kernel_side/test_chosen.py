"""A cell that chooses a GPU without a share is told so, on the FAKE driver; whatever it uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import fake_driver
from driver.fake_driver import UUIDS, FakeDriver
from frameworks import write_fakes
from gpu_share_kernel.chosen import TOLD
from on_fake_driver import run_on
from waiting import PATIENCE

from jupyter_gpu_share.engines.local import _enforcement
from jupyter_gpu_share.kernel_side import PATH

HERE = fake_driver.HERE
NAMED, USED = "what CUDA_VISIBLE_DEVICES names now ({})", "the GPU that it uses now ({})"
#: A kernel whose cells are run one after the other, as IPython does it.
CELLS = """
import os, sys
from types import SimpleNamespace as Some
after = []
shell = Some(events=Some(register=lambda event, each: after.append(each)))
sys.modules["IPython"] = Some(get_ipython=lambda: shell)
from gpu_share_kernel import chosen
for _ in range(2): chosen.watch()
assert len(after) == 1
def cell(code):
    exec(code, {"os": os, "gpu": __import__("fake_gpu_program")})
    for each in after: each(None)
    print("--", file=sys.stderr)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    made = FakeDriver(tmp_path / "driver", 4)
    yield made
    made.close()


def told(driver: FakeDriver, *cells: str, visible: str = "1", **env: str) -> list[str]:
    """What each cell is told, of a kernel whose share is the second GPU."""
    code = CELLS + "".join(f"cell({each!r})\n" for each in cells)
    chosen = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", TOLD: visible}
    done = run_on(driver, code, HERE, uuid=UUIDS[1], memory=2**30, **{**chosen, **env})
    return done.stderr.split("--\n")[:-1]


def set_to(text: str) -> str:
    return f"os.environ['CUDA_VISIBLE_DEVICES'] = {text!r}"


def test_both_sides_name_the_variable_alike() -> None:
    assert TOLD == _enforcement._VISIBLE_TOLD


@pytest.mark.parametrize("visible", ["1", UUIDS[1]], ids=["number", "uuid"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0", "0"),
        ("1,0", "0"),
        (" 3 ", "3"),
        (UUIDS[0], UUIDS[0]),
        ("MIG-7", "MIG-7"),
        ("1", None),
        ("1, 1", None),
        (UUIDS[1], None),
        ("", None),
        ("-1", None),
        ("none", None),
        ("1,-1,0", None),
        ("9", None),
        ("1,9,0", None),
        ("GPU-9", None),
    ],
)
def test_what_is_not_of_the_share_is_named_with_the_cell(
    text: str, named: str | None, visible: str, driver: FakeDriver
) -> None:
    """Nothing is said of what CUDA does not see, and each choice is told once."""
    first, second, third = told(driver, "1", set_to(text), "2", visible=visible)
    assert (first, third) == ("", "")
    assert (NAMED.format(named) in second) if named else (second == "")
    if named:
        assert f"set it to {visible!r} again" in second


def test_all_gpus_are_more_than_the_share(driver: FakeDriver) -> None:
    (line,) = told(driver, "del os.environ['CUDA_VISIBLE_DEVICES']")
    assert NAMED.format("all") in line
    driver.state.count = 2
    own = ",".join(UUIDS[:2])
    assert told(driver, "del os.environ['CUDA_VISIBLE_DEVICES']", JUPYTER_GPU_SHARE_UUID=own) == [
        ""
    ]


@pytest.mark.parametrize(
    "env",
    [{"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, {"JUPYTER_GPU_SHARE_ISOLATION": "mps"}],
    ids=["order", "mps"],
)
def test_numbers_that_mean_something_else_are_not_guessed(
    env: dict[str, str], driver: FakeDriver
) -> None:
    assert told(driver, set_to("0"), visible=UUIDS[1], **env) == [""]


def test_a_gpu_that_is_used_is_named_where_its_choice_was_not_seen(driver: FakeDriver) -> None:
    """Whatever made the context: no framework is asked."""
    cells = ("gpu.context(0)", "gpu.context(1)", "gpu.context(1)")
    first, second, third = told(driver, *cells, visible="0,1")
    assert (first.count("\n"), third) == (1, "")
    assert USED.format(UUIDS[0]) in first
    assert second == ""


def test_a_kernel_without_a_share_is_told_too(driver: FakeDriver) -> None:
    nothing = {"JUPYTER_GPU_SHARE_UUID": "", "JUPYTER_GPU_SHARE_MEMORY_BYTES": "0"}
    (line,) = told(driver, set_to("0"), visible="", **nothing)
    assert NAMED.format("0") in line


def test_where_no_driver_answers_only_numbers_that_are_known_are_told(driver: FakeDriver) -> None:
    driver.state.init = 999
    assert NAMED.format("0") in told(driver, set_to("0"))[0]
    assert told(driver, set_to("0"), visible=UUIDS[1]) == [""]


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_an_import_tells_before_the_framework_begins(
    name: str, driver: FakeDriver, tmp_path: Path
) -> None:
    """As in a worker that was given a GPU by whoever started it; filters do not hide it."""
    folder = tmp_path / "frameworks"
    folder.mkdir()
    path = os.pathsep.join(map(str, [HERE, PATH, write_fakes(folder)]))
    code = f"import sitecustomize, warnings; warnings.simplefilter('ignore'); {set_to('0')}"
    code = f"import os; {code}; import {name}"
    for size in (2**30, 0):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                **driver.env,
                **({"JUPYTER_GPU_SHARE_UUID": UUIDS[1]} if size else {}),
                "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(size),
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                TOLD: "1" if size else "",
                "PYTHONPATH": path,
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert NAMED.format("0") in done.stderr
