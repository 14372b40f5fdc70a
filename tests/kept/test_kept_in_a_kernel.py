"""States that need the kernel itself: all in one, saved, and brought back in another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

sys.path.append(str(Path(__file__).parents[1] / "kernel_side"))
from sessions import Sessions  # noqa: E402 - its folder is another's

# ruff: noqa: ISC004 - pairs of a cell and an expression
#: Cells, and an expression that is the same afterwards.
SAME = {
    "closures that share a variable": (
        "def make():\n    n = 0\n    def add():\n        nonlocal n\n        n += 1; return n\n"
        "    return add, lambda: n\nadd, get = make(); add()",
        "get()",
    ),
    "a data class": (
        "import dataclasses\n@dataclasses.dataclass\nclass Config:\n    rate: float",
        "[f.default is dataclasses.MISSING for f in dataclasses.fields(Config)]",
    ),
    "a registry": (
        "names = []\nclass Plugin:\n    def __init_subclass__(cls): names.append(cls.__name__)\n"
        "class A(Plugin): pass\nclass B(A): pass",
        "names",
    ),
    "a masked array over another": (
        "import numpy as np\nraw = np.zeros(4); masked = np.ma.array(raw, copy=False)",
        "np.shares_memory(raw, masked.data)",
    ),
    "filters of warnings": (
        "import warnings\nclass Mine(UserWarning): pass\nwarnings.simplefilter('ignore', Mine)",
        "[each[0] for each in warnings.filters if each[2] is Mine]",
    ),
    "names that look like ours": (
        "import os; os.environ.update(GPU_BATCH='8', JPY_RATE='0.1')",
        "[os.environ['GPU_BATCH'], os.environ['JPY_RATE']]",
    ),
    "a handler of exceptions": (
        "def handle(self, kind, value, tb, tb_offset=None): print('handled')\n"
        "get_ipython().set_custom_exc((ZeroDivisionError,), handle)",
        "get_ipython().custom_exceptions[0].__name__",
    ),
    "a formatter": (
        "class Money: pass\nget_ipython().display_formatter.formatters['text/html'].for_type(\n"
        "    Money, lambda each: '<b>much</b>')\nmoney = Money()",
        "get_ipython().display_formatter.format(money)[0]['text/html']",
    ),
    "a module of the folder": (
        "%%writefile own.py\nSTATE = {'n': 0}\n",
        "None",
    ),
    "its state": ("import own; own.STATE['n'] = 5; own.more = [1]", "[own.STATE, own.more]"),
    "an exception with its places": (
        "import traceback\ntry: 1 / 0\nexcept Exception as error: caught = error",
        "[list(each)[1:3] for each in traceback.extract_tb(caught.__traceback__)]",
    ),
    "arguments": ("import sys; sys.argv[1:] = ['--rate', '3']", "sys.argv[1:]"),
    "a figure": (
        "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt\n"
        "figure = plt.figure(7)",
        "plt.get_fignums()",
    ),
}
#: Cells, and what is told of them.
TOLD = {
    "function at exit bye": "import atexit\n@atexit.register\ndef bye(): pass",
    "handler FileHandler of train": (
        "import logging; logging.getLogger('train').addHandler(logging.FileHandler('train.log'))"
    ),
    "widget IntSlider": (
        "import ipywidgets\ndef board():\n    slider = ipywidgets.IntSlider()\n"
        "    slider.observe(lambda change: None, 'value'); display(slider)\nboard()"
    ),
    "%logstart": "%logstart -q cells.log",
    "view": (
        "np.save('held.npy', np.zeros(9)); view = np.asarray(np.load('held.npy', mmap_mode='r+'))"
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What one kernel has before, what is told, and what the next one has afterwards."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        first, second = made.pair()
        for cell, _ in SAME.values():
            first.run(cell)
        before = {name: first.value(check) for name, (_, check) in SAME.items()}
        assert first.ask("survey()")["lost"] == []
        for cell in TOLD.values():
            first.run(cell)
        told = {row["name"]: row["why"] for row in first.ask("survey()")["lost"]}
        first.ask(f"save({str(made.file)!r})")
        failed = second.ask(f"restore({str(made.file)!r})")["failed"]
        after = {name: second.value(check) for name, (_, check) in SAME.items()}
        yield {"before": before, "told": told, "failed": failed, "after": after}


@pytest.mark.parametrize("name", SAME)
def test_it_is_the_same(found: dict[str, Any], name: str) -> None:
    assert found["after"][name] == found["before"][name]


def test_all_else_is_told(found: dict[str, Any]) -> None:
    assert found["failed"] == []
    assert set(found["told"]) == set(TOLD)
