"""Objects of modules: a new kernel can import them, or they are named as lost before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sessions import Session, Sessions

pytestmark = pytest.mark.slow

MODULE = (
    "import os\n"
    "class Net:\n"
    "    def where(self): return [__name__, os.path.abspath(__file__)]\n"
    "def call(): return Net()\n"
)
#: How the object of a module is made, and what changes afterwards. All begin in ``here``.
WAYS = {
    "as it was": ("from near import Net", ""),
    "another folder": ("from near import Net", "os.chdir(elsewhere)"),
    "another path": ("sys.path.insert(0, 'lib'); from far import Net", "sys.path.pop(0)"),
    "a relative entry": ("sys.path.insert(0, 'lib'); from far import Net", "os.chdir(elsewhere)"),
    "from a file": (
        (
            "import importlib.util as u\n"
            "spec = u.spec_from_file_location('far_x', 'lib/far.py')\n"
            "far_x = u.module_from_spec(spec); sys.modules['far_x'] = far_x\n"
            "spec.loader.exec_module(far_x); Net = far_x.Net; del spec"
        ),
        "os.chdir(elsewhere)",
    ),
    "of a package": ("from pack.sub.mod import Net", "os.chdir(elsewhere)"),
    "of a package without a file": ("from bare.mod import Net", "os.chdir(elsewhere)"),
    "hidden by another": ("from near import Net", "os.chdir(elsewhere + '/same')"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a notebook's own modules, and another folder beside it."""
    folder = tmp_path_factory.mktemp("snapshot.modules")
    for file in (
        "here/near.py",
        "here/lib/far.py",
        "here/pack/sub/mod.py",
        "here/bare/mod.py",
        "elsewhere/same/near.py",
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(MODULE)
    (folder / "here/pack/__init__.py").touch()
    (folder / "here/pack/sub/__init__.py").write_text("from pack.sub import mod")
    return folder / "here"


def begin(kernel: Session, here: Path) -> None:
    kernel.run(
        f"import os, sys\nelsewhere = {str(here.parent / 'elsewhere')!r}\nos.chdir({str(here)!r})"
    )


def survive(house: Sessions, first: Session) -> Session:
    """The next kernel, with all that the first one has."""
    assert first.ask("survey()")["lost"] == []
    first.ask(f"save({str(house.file)!r}, allowed=[])")
    second = house.start()
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    return second


@pytest.mark.parametrize("way", WAYS)
def test_objects_of_a_notebooks_own_modules_come_back(
    house: Sessions, here: Path, way: str
) -> None:
    make, change = WAYS[way]
    first = house.start()
    begin(first, here)
    first.run(f"{make}\nmodule = sys.modules[Net.__module__]; net = Net(); make = module.call")
    expected = first.value("net.where()")
    first.run(change)
    second = survive(house, first)
    assert second.value("net.where()") == expected
    assert second.value("[make().where(), module.Net is Net is type(net)]") == [expected, True]
    # And once more, with what was never used in between.
    third = survive(house, second)
    assert third.value("net.where()") == expected


GONE = {
    "has no file": "m = types.ModuleType('made'); sys.modules['made'] = m; exec(CODE, vars(m))",
    "could not import made from": (
        "open('made.py', 'w').write(CODE); import made as m; os.unlink('made.py')"
    ),
    "could not import pack.made from": (
        "open('pack/made.py', 'w').write(CODE); import pack.made as m; os.unlink('pack/made.py')"
    ),
    "could not import loaded from": (
        "import importlib.machinery as im, importlib.util as iu\n"
        "open('loaded.txt', 'w').write(CODE)\n"
        "class Own(im.SourceFileLoader): pass\n"
        "s = iu.spec_from_loader('loaded', Own('loaded', os.path.abspath('loaded.txt')))\n"
        "m = iu.module_from_spec(s); sys.modules['loaded'] = m; s.loader.exec_module(m)\n"
        "del s, Own"
    ),
}


@pytest.mark.parametrize("why", GONE)
def test_what_a_new_kernel_could_not_import_is_named_before(
    house: Sessions, here: Path, why: str
) -> None:
    kernel = house.start()
    begin(kernel, here)
    kernel.run(f"import types\nCODE = {MODULE!r}\n{GONE[why]}")
    kernel.run("first = m.Net(); second = [m.Net()]; other = m.call; plain = 1; import json, near")
    found = kernel.ask("survey()")
    assert {row["name"] for row in found["lost"]} == {"m", "first", "second", "other"}
    assert all(why in row["why"] for row in found["lost"]), found["lost"]


def test_modules_of_the_environment_are_found(house: Sessions) -> None:
    """Nothing that is installed is carried, or taken for lost."""
    kernel = house.start()
    kernel.run(
        "import numpy, pandas, matplotlib.pyplot, IPython, zmq, json, os, sys, asyncio, tornado\n"
        "from collections import OrderedDict; a = [numpy.add, pandas.DataFrame, OrderedDict]"
    )
    assert kernel.ask("survey()")["lost"] == []
    assert kernel.ask("Reach().told()", "snapshot.modules") == {"folders": [], "files": {}}
    assert kernel.value(
        "[n for n in list(sys.modules) if __import__('gpu_share_kernel.snapshot.modules')"
        ".snapshot.modules.Reach().why(n) and getattr(sys.modules[n], '__spec__', None)]"
    ) == []  # fmt: skip


def test_what_the_start_of_python_finds_is_found(house: Sessions, tmp_path: Path) -> None:
    """An editable install has a finder of its own, from a file of its folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "edited.py").write_text(MODULE)
    (tmp_path / "_own_finder.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name == 'edited':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(tmp_path)!r}"
        " + '/real/edited.py')\n"
        "sys.meta_path.append(Finder)\n"
    )
    kernel = house.start(path=[tmp_path])
    kernel.run("import sys, _own_finder, edited; net = edited.Net()")
    assert kernel.ask("Reach().told()", "snapshot.modules")["folders"] == [str(tmp_path / "real")]
    (tmp_path / "own.pth").write_text("import _own_finder\n")
    assert kernel.ask("Reach().told()", "snapshot.modules") == {"folders": [], "files": {}}


def test_what_no_variable_needs_can_be_imported_later_on(house: Sessions, here: Path) -> None:
    kernel = house.start()
    begin(kernel, here)
    make, change = WAYS["from a file"]
    kernel.run(f"{make}\n{change}\ndel far_x, Net")
    for _ in range(2):
        kernel = survive(house, kernel)
    assert kernel.run("import far_x; print(far_x.Net.__name__)") == "Net"


def test_what_a_package_has_brought_for_itself_is_carried_where_it_is_named(
    house: Sessions, tmp_path: Path
) -> None:
    inner = tmp_path / "site-packages" / "outer" / "vendored"
    inner.mkdir(parents=True)
    (inner / "inner.py").write_text(MODULE)
    (inner.parent / "__init__.py").write_text(
        "import sys\nsys.path.insert(0, __path__[0] + '/vendored')\nimport inner\ndel sys.path[0]\n"
    )
    first = house.start(path=[inner.parent.parent])
    first.run("import outer; from outer import inner; net = inner.Net()")
    expected = first.value("net.where()")
    second = house.start()
    first.ask(f"save({str(house.file)!r}, allowed=[])")
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("net.where()") == expected
    assert not second.value(f"{str(inner)!r} in __import__('sys').path")


def test_a_restore_that_fails_leaves_no_finder(house: Sessions, here: Path) -> None:
    first = house.start()
    begin(first, here)
    make, change = WAYS["from a file"]
    first.run(f"{make}\n{change}")
    first.ask(f"save({str(house.file)!r})")
    second = house.start()
    before = second.value("[len(__import__('sys').meta_path), __import__('sys').path]")
    second.run("from gpu_share_kernel import snapshot\nsnapshot.restoring._settle = None")
    second.run(f"try: snapshot.restore({str(house.file)!r})\nexcept TypeError: print('failed')")
    assert second.value("[len(__import__('sys').meta_path), __import__('sys').path]") == before
