"""What is brought back besides the variables: folder, environment, history, settings, dice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sessions import Sessions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


def test_cells_go_on_counting_and_the_history_is_there(house: Sessions) -> None:
    first, second = house.pair()
    for cell in ("a = 5", "a", "%time b = 1", "[a]", "c = 2"):
        first.run(cell)
    first.ask(f"save({str(house.file)!r})")
    second.ask(f"restore({str(house.file)!r})")
    assert second.run("print(In[1:6], _i, _ii, _iii)") == (
        "['a = 5', 'a', \"get_ipython().run_line_magic('time', 'b = 1')\", '[a]', 'c = 2'] "
        "c = 2 [a] %time b = 1"
    )
    assert second.value("[get_ipython().execution_count, len(In), _i6[:5]]") == [7, 7, "print"]
    assert second.value("[sorted(Out), _4, _oh is Out, _ih is In, _, __]") == [
        [2, 4], [5], True, True, [5], 5,
    ]  # fmt: skip
    # What IPython called so goes on to be the last result; a name that the user took does not.
    second.run("'next'")
    assert second.value("[_, __, ___, Out[7]]") == ["next", [5], 5, "next"]
    assert second.run("%history -n 1-4").splitlines()[2].split(":")[1].strip() == "%time b = 1"
    second.run("for _ in range(3): pass")
    second.ask(f"save({str(house.file)!r})")
    third = house.start()
    third.ask(f"restore({str(house.file)!r})")
    third.run("'last'")
    assert third.value("_") == 2
    assert "_" not in third.ask("survey()"), "it is no variable of the user's"
    assert third.value("[v for v in get_ipython().user_ns_hidden if v == 'a']") == []


def test_looking_leaves_no_trace(house: Sessions) -> None:
    kernel = house.start()
    kernel.run("import warnings, json, os\na = [1]")
    kernel.run("a")
    look = (
        "[sorted(globals()), len(In), sorted(Out), get_ipython().execution_count, os.getcwd(),"
        " sorted(get_ipython().user_ns_hidden), len(warnings.filters), dict(os.environ)]"
    )
    before = kernel.value(look)
    kernel.ask("survey()")
    kernel.ask(f"save({str(house.file)!r})")
    assert kernel.value(look) == before
    assert kernel.run("print(_, _i)") == "[1] a"


def test_folder_environment_and_path_are_as_the_user_set_them(
    house: Sessions, tmp_path: Path
) -> None:
    first = house.start(MINE="first", GONE="x", KEPT="same")
    first.run(
        "import os, sys\n"
        "os.environ.update(MINE='mine', NEW='n\\udc80', CUDA_VISIBLE_DEVICES='7', GPU_X='1',\n"
        "  JUPYTER_GPU_SHARE_UUID='other', NVIDIA_VISIBLE_DEVICES='all')\n"
        f"del os.environ['GONE']; os.chdir({str(tmp_path)!r})\n"
        "sys.path.insert(0, '/first/of/all')\n"
        "environment, path = os.environ, sys.path"
    )
    first.ask(f"save({str(house.file)!r})")
    second = house.start(GONE="x", MINE="first", KEPT="of the new one", ONLY="here")
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == []
    names = "MINE NEW GONE KEPT ONLY CUDA_VISIBLE_DEVICES GPU_X JUPYTER_GPU_SHARE_UUID"
    assert second.value(f"[os.environ.get(name) for name in {names.split()!r}]") == [
        "mine", "n\udc80", None, "of the new one", "here", None, "1", None,
    ]  # fmt: skip
    assert second.value("[os.getcwd(), sys.path[0]]") == [str(tmp_path), "/first/of/all"]
    assert second.value("environment is os.environ and path is sys.path")
    assert second.value("len(sys.path) == len(set(sys.path))")


def test_in_a_kernel_that_was_forked_the_environment_is_compared_with_what_it_got(
    house: Sessions,
) -> None:
    kernel = house.start()
    kernel.run(
        "import os, gpu_share_kernel.zygote as z\n"
        "os.environ.clear(); os.environ.update(A='1', B='2')"
    )
    module = "__import__('gpu_share_kernel.snapshot.session').snapshot.session"
    changed = f"{module}.surroundings()['environment']"
    assert kernel.value(changed) == {}, "nobody knows: nothing is taken for the user's"
    kernel.run("z.started_with = {'A': '1', 'C': '3'}")
    assert kernel.value(changed) == {"B": "2", "C": None}


def test_a_folder_that_is_gone_is_said(house: Sessions, tmp_path: Path) -> None:
    first, second = house.pair()
    gone = tmp_path / "gone"
    gone.mkdir()
    first.run(f"import os; a = 1; os.chdir({str(gone)!r})")
    first.ask(f"save({str(house.file)!r})")
    gone.rmdir()
    assert first.ask("survey()")["variables"] == 2, "not even from within it"
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == [
        {"name": "working folder", "why": f"{gone}: no such file or directory"}
    ]
    assert second.value("[a, os.path.isdir('.')]") == [1, True]


def test_extensions_are_loaded_again(house: Sessions, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def load_ipython_extension(ip):\n    ip.push({'loaded': 'anew'})\n"
    )
    (tmp_path / "broken.py").write_text(
        "import os\n"
        "def load_ipython_extension(ip):\n"
        "    if 'NEW' in os.environ: raise ValueError('not here')\n"
    )
    first = house.start(path=[tmp_path])
    first.run("%load_ext mine")
    first.run("%load_ext broken")
    first.run("loaded = 'by the user'")
    first.ask(f"save({str(house.file)!r})")
    second = house.start(path=[tmp_path], NEW="1")
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == [{"name": "broken", "why": "ValueError: not here"}]
    assert second.value("'mine' in get_ipython().extension_manager.loaded")
    assert second.value("loaded") == "by the user"


def test_dice_fall_as_they_would_have(house: Sessions) -> None:
    first, second = house.pair()
    first.run(
        "import random, numpy as np\n"
        "from random import random as draw\n"
        "random.seed(3); np.random.seed(4); random.random(); np.random.rand()"
    )
    first.ask(f"save({str(house.file)!r})")
    second.ask(f"restore({str(house.file)!r})")
    rolls = "[random.random(), draw(), random.random(), np.random.rand(), np.random.rand()]"
    assert second.value(rolls) == first.value(rolls)


def test_matplotlib_looks_the_same(house: Sessions) -> None:
    first, second = house.pair()
    assert first.value("'matplotlib' in __import__('sys').modules") is False
    first.ask(f"save({str(house.file)!r})")
    assert first.value("'matplotlib' in __import__('sys').modules") is False
    first.run(
        "import matplotlib\n"
        "matplotlib.use('svg'); matplotlib.rcParams['lines.linewidth'] = 7.5\n"
        "matplotlib.rcParams['axes.prop_cycle'] = matplotlib.cycler(color='rgb')"
    )
    first.ask(f"save({str(house.file)!r})")
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == []
    assert second.value("[matplotlib.get_backend(), matplotlib.rcParams['lines.linewidth']]") == [
        "svg",
        7.5,
    ]
    assert second.value("len(matplotlib.rcParams['axes.prop_cycle'])") == 3


def test_what_the_start_defined_is_no_variable_of_the_users(house: Sessions) -> None:
    """It is saved all the same: cells may have changed it in place."""
    first, second = house.pair()
    code = "get_ipython().push({'settings': {'a': 1}, 'g': (i for i in [])}, interactive=False)"
    for kernel in (first, second):
        kernel.value(f"{code} and None")
    first.run("settings['a'] = 2\nopen = 3; exit = 4\n_mine = 5; __mine__ = 6")
    found = first.ask("survey()")
    assert [found["variables"], found["lost"]] == [4, []]
    first.ask(f"save({str(house.file)!r})")
    second.ask(f"restore({str(house.file)!r})")
    assert second.value("[settings, open, exit, _mine, __mine__]") == [{"a": 2}, 3, 4, 5, 6]
    assert second.value("type(g).__name__") == "generator"
