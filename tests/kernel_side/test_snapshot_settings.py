"""Settings of a session come back with its variables, or are named before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sessions import Session, Sessions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


def survive(house: Sessions, first: Session, second: Session | None = None) -> Session:
    """The next kernel, with all that the first one has."""
    assert first.ask("survey()")["lost"] == []
    first.ask(f"save({str(house.file)!r}, allowed=[])")
    second = second or house.start()
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    return second


#: Cells that change something, and an expression that is other than in a new kernel.
CHANGED = {
    "config": (
        ["%config InteractiveShell.ast_node_interactivity = 'all'"],
        "get_ipython().ast_node_interactivity",
    ),
    "config in Python": (
        ["get_ipython().Completer.use_jedi = not get_ipython().Completer.use_jedi"],
        "get_ipython().Completer.use_jedi",
    ),
    "config of what is not there yet": (
        ["%config InlineBackend.figure_formats = ['svg']"],
        (
            "sorted(__import__('matplotlib_inline.config').config.InlineBackend"
            ".instance(parent=get_ipython()).figure_formats)"
        ),
    ),
    "config of matplotlib": (
        ["%matplotlib inline", "%config InlineBackend.figure_formats = {'svg', 'png'}"],
        (
            "sorted(__import__('matplotlib_inline.config').config.InlineBackend"
            ".instance(parent=get_ipython()).figure_formats)"
        ),
    ),
    "alias": (["%alias hi echo hi"], "[a for a in get_ipython().alias_manager.aliases][-1]"),
    "precision": (
        ["%precision 3"],
        "get_ipython().display_formatter.format(1 / 3)[0]['text/plain']",
    ),
    "xmode": (["%xmode Minimal"], "get_ipython().InteractiveTB.mode"),
    "recursion": (
        ["import sys; sys.setrecursionlimit(2345)"],
        "__import__('sys').getrecursionlimit()",
    ),
    "decimal": (
        ["import decimal; c = decimal.getcontext(); c.prec = 7; c.traps[decimal.Inexact] = True"],
        (
            "[__import__('decimal').getcontext().prec,"
            " __import__('decimal').getcontext().traps[__import__('decimal').Inexact]]"
        ),
    ),
    "numpy": (
        [
            (
                "import numpy as np; np.set_printoptions(precision=2, threshold=float('inf'),"
                " formatter={'int': lambda i: f'<{i}>'}); np.seterr(divide='ignore')"
            )
        ],
        (
            "[str(__import__('numpy').array([1.23456])), str(__import__('numpy').array([1])),"
            " __import__('numpy').geterr()['divide']]"
        ),
    ),
    "pandas": (
        [
            (
                "import pandas as pd; pd.set_option('display.max_rows', 7)\n"
                "pd.options.display.float_format = '<{:.2f}>'.format"
            )
        ],
        (
            "[__import__('pandas').get_option('display.max_rows'),"
            " str(__import__('pandas').Series([1.234])).split()[1]]"
        ),
    ),
    "logging": (
        [
            (
                "import logging, sys\n"
                "logging.basicConfig(level=10, stream=sys.stdout, format='{message}!', style='{')\n"
                "logging.getLogger('mine').setLevel('ERROR')\n"
                "for name in ('asyncio', 'stack_data'): logging.getLogger(name).setLevel(99)"
            )
        ],
        (
            "[__import__('logging').root.level, __import__('logging').getLogger('mine').level,"
            " [(h.stream is __import__('sys').stdout, h.formatter._fmt)"
            " for h in __import__('logging').root.handlers]]"
        ),
    ),
}


@pytest.mark.parametrize("part", CHANGED)
def test_what_was_changed_is_so_afterwards(house: Sessions, part: str) -> None:
    cells, expression = CHANGED[part]
    first, second = house.pair()
    usual = house.start().value(expression)
    for cell in cells:
        first.run(cell)
    changed = first.value(expression)
    assert changed != usual
    survive(house, first, second)
    assert second.value(expression) == changed


def test_what_was_not_changed_is_not_taken_along(house: Sessions) -> None:
    kernel = house.start()
    kernel.run("import pandas, numpy, decimal, matplotlib.pyplot")
    look = "__import__('gpu_share_kernel.snapshot.settings').snapshot.settings.look(get_ipython())"
    found = kernel.value(look)
    assert found.pop("recursion") and found.pop("xmode") and found.pop("logging")
    assert "arguments" not in found.pop("process"), "they say how this kernel was started"
    assert found == {}
    named = look.replace("look(", "functions(")
    assert kernel.value(f"dict({named}) == {{}}")


@pytest.mark.parametrize("mode", ["2", "1"])
def test_autoreload_goes_on(house: Sessions, tmp_path: Path, mode: str) -> None:
    module = tmp_path / f"edited{mode}.py"
    module.write_text("def says(): return 'old'\n")
    first = house.start(path=[tmp_path])
    second = house.start(path=[tmp_path])
    first.run("%load_ext autoreload")
    first.run(f"%autoreload {mode}")
    first.run(f"%aimport edited{mode}" if mode == "1" else f"import edited{mode}")
    assert first.run(f"edited{mode}.says()") == "'old'"
    survive(house, first, second)
    assert second.run(f"edited{mode}.says()") == "'old'"
    module.write_text("def says(): return 'new, and longer'\n")
    assert second.run(f"edited{mode}.says()") == "'new, and longer'"


def test_own_magics_and_hooks_go_on(house: Sessions) -> None:
    first = house.start()
    first.run(
        "from IPython.core.magic import register_line_magic, register_cell_magic\n"
        "from IPython.core.magic import Magics, magics_class, line_magic\n"
        "word = 'hello'\n"
        "@register_line_magic\n"
        "def hello(line): return f'{word} {line}'\n"
        "@register_cell_magic\n"
        "def twice(line, cell): return cell.strip() * 2\n"
        "@magics_class\n"
        "class Mine(Magics):\n"
        "    @line_magic\n"
        "    def own(self, line): return ['own', line]\n"
        "get_ipython().register_magics(Mine)\n"
        "seen = []\n"
        "def note(info): seen.append(info.raw_cell)\n"
        "get_ipython().events.register('pre_run_cell', note)\n"
        "del twice"
    )
    second = survive(house, first)
    assert second.run("%hello you") == "'hello you'"
    assert second.run("%%twice\nab") == "'ab\\nab\\n'" or second.run("%%twice\nab") == "'abab'"
    assert second.run("%own it") == "['own', 'it']"
    assert second.value("seen[0]") == "%hello you"
    second.run("word = 'bye'")
    assert second.run("%hello you") == "'bye you'", "it is a function of the notebook's"


def test_magics_of_an_extension_come_with_it(house: Sessions, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "import threading\n"
        "def load_ipython_extension(ip, lock=threading.Lock()):\n"
        "    def held(line): return str(lock.locked())\n"
        "    ip.register_magic_function(held)\n"
    )
    first = house.start(path=[tmp_path])
    first.run("%load_ext theirs")
    second = survive(house, first, house.start(path=[tmp_path]))
    assert second.run("%held") == "'False'"


def test_what_cannot_be_taken_along_is_named_before(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run(
        "import logging, threading, numpy\n"
        f"logging.root.addHandler(logging.FileHandler({str(tmp_path / 'log')!r}))\n"
        "def make(lock=threading.Lock()):\n"
        "    def bad(line): return lock\n"
        "    return bad\n"
        "get_ipython().register_magic_function(make(), 'line', 'bad')\n"
        "get_ipython().events.register('post_run_cell', make())\n"
        "del make"
    )
    found = kernel.ask("survey()")
    assert {row["name"]: row["what"] for row in found["lost"]} == {
        "%bad": "function",
        "hook post_run_cell make.<locals>.bad": "function",
        "handler FileHandler": "log handler",
    }
    refused = f"try: S.save({str(house.file)!r}, allowed=['%bad'])\nexcept S.Refused as e: print(e)"
    said = kernel.run(f"from gpu_share_kernel import snapshot as S\n{refused}")
    assert "`handler FileHandler`" in said and "`%bad`" not in said
