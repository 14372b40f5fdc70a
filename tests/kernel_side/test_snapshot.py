"""Variables that go from one real kernel to another, and what has to be the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sessions import Session, Sessions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


def moved(house: Sessions, code: str) -> tuple[Session, dict[str, Any]]:
    """A kernel with the variables of another one, which has run the code and has ended."""
    first, second = house.pair()
    first.run(code)
    before = first.value("sorted(globals())")
    first.ask("survey()")
    found = first.ask(f"save({str(house.file)!r})")
    assert first.value("sorted(globals())") == before, "no trace is left in the namespace"
    first.close()
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == []
    assert said["manifest"]["names"] == found["names"]
    return second, said


def test_what_variables_share_is_shared_again(house: Sessions) -> None:
    kernel, _ = moved(
        house,
        "import numpy as np\n"
        "a = [1]; b = a; pair = {'a': a}\n"
        "array = np.arange(100_000); one = [array]; two = {'x': (array,)}\n"
        "loop = []; loop.append(loop)\n"
        "left, right = {}, {}; left['other'] = right; right['other'] = left\n"
        "key = frozenset([1]); keys = {key: 'x'}\n"
        "everything = globals(); cells = In; shell = get_ipython()\n"
        "import sys; out = sys.stdout; handlers = [sys.stderr]",
    )
    for same in (
        "a is b is pair['a']",
        "one[0] is array is two['x'][0]",
        "loop[0] is loop",
        "left['other'] is right and right['other'] is left",
        "next(iter(keys)) is key",
        "everything is globals()",
        "cells is In and shell is get_ipython()",
        "out is sys.stdout and handlers[0] is sys.stderr",
    ):
        assert kernel.value(same) is True, same
    kernel.run("array[7] = -1; b.append(2)")
    assert kernel.value("[int(one[0][7]), a, pair['a']]") == [-1, [1, 2], [1, 2]]


def test_views_of_an_array_show_its_changes_again(house: Sessions) -> None:
    kernel, _ = moved(
        house,
        "import numpy as np, pandas as pd\n"
        "base = np.arange(24.0).reshape(4, 6)\n"
        "row, column, turned, back = base[1], base[:, 2], base.T, base[::-1, ::2]\n"
        "times = np.array(['2026-01-01', '2026-01-02'], dtype='M8[D]'); last = times[1:]\n"
        "hidden = np.arange(10); part = hidden[2:5]; other = hidden[4:]; del hidden\n"
        "fixed = base[0]; fixed.flags.writeable = False\n"
        "columns = np.asfortranarray(base); upper = columns[:2]\n"
        "odd = np.arange(100_000)[::3]\n"
        "frame = pd.DataFrame({'a': [1.0, 2.0], 'b': [3.0, 4.0]}); series = frame['a']",
    )
    kernel.run("base[1, 2] = -1; last[0] = '2000-01-01'; part[2] = -2; columns[1, 1] = -3")
    assert kernel.value("[row[2], column[1], turned[2, 1], back[2, 1]]") == [-1] * 4
    assert kernel.value("[str(times[1]), int(other[0]), upper[1, 1]]") == ["2000-01-01", -2, -3]
    assert kernel.value("[fixed.flags.writeable, row.flags.writeable]") == [False, True]
    assert kernel.value("[int(odd[-1]), len(odd)]") == [99_999, 33_334]
    # Where pandas keeps its own books about who shares what, nothing is shared behind them.
    kernel.run("series.iloc[0] = 9.0")
    assert kernel.value("[frame['a'].tolist(), series.tolist()]") == [[1.0, 2.0], [9.0, 2.0]]


def test_functions_use_the_namespace_that_they_are_in(house: Sessions) -> None:
    kernel, _ = moved(
        house,
        "import functools, json as j\n"
        "factor = 2\n"
        "def times(n): return n * factor\n"
        "def factorial(n): return 1 if n < 2 else n * factorial(n - 1)\n"
        "def is_even(n): return n == 0 or is_odd(n - 1)\n"
        "def is_odd(n): return n != 0 and is_even(n - 1)\n"
        "def counter():\n"
        "    count = 0\n"
        "    def up():\n"
        "        nonlocal count\n"
        "        count += 1\n"
        "        return count\n"
        "    return up\n"
        "up = counter(); up()\n"
        "def local():\n"
        "    def down(n): return 0 if n == 0 else down(n - 1)\n"
        "    return down\n"
        "down = local()\n"
        "def twice(f):\n"
        "    @functools.wraps(f)\n"
        "    def run(*args): return 2 * f(*args)\n"
        "    return run\n"
        "@twice\n"
        "def plus(a, b=1, *, c=0):\n"
        "    'adds'\n"
        "    return a + b + c\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def cached(n): return n * factor\n"
        "square = lambda n: n ** 2\n"
        "five = functools.partial(times, 5)\n"
        "dumps = j.dumps; times.note = [1]; notes = times.note\n"
        "generator = (n for n in [])\n"
        "def uses_what_is_lost(): return list(generator)\n",
    )
    assert kernel.value("[times(3), factorial(5), is_even(10), up()]") == [6, 120, True, 2]
    assert kernel.value("[down(3), plus(1), plus.__doc__, plus.__name__]") == [0, 4, "adds", "plus"]
    assert kernel.value("[cached(4), cached.cache_info().maxsize]") == [8, 7]
    assert kernel.value("[square(3), five()]") == [9, 10]
    assert kernel.value("times.note is notes and dumps is j.dumps")
    kernel.run("factor = 10")
    assert kernel.value("[times(3), five(), cached(5)]") == [30, 50, 50]
    kernel.run("def is_odd(n): return 'replaced'")
    assert kernel.value("is_even(1)") == "replaced"
    kernel.run("generator = [4]")
    assert kernel.value("uses_what_is_lost()") == [4]
    assert kernel.value("__builtins__ is __import__('builtins')")


def test_classes_of_cells_come_back_with_their_instances(house: Sessions) -> None:
    kernel, _ = moved(
        house,
        "import abc, collections, dataclasses, enum, typing\n"
        "limit = 3\n"
        "class Base(abc.ABC):\n"
        "    made = []\n"
        "    @abc.abstractmethod\n"
        "    def area(self): ...\n"
        "class Square(Base):\n"
        "    __slots__ = ('side',)\n"
        "    def __init__(self, side): self.side = side; Base.made.append(self)\n"
        "    def area(self): return self.side ** 2\n"
        "    @property\n"
        "    def big(self): return self.side > limit\n"
        "    @classmethod\n"
        "    def unit(cls): return cls(1)\n"
        "    def __eq__(self, other): return type(other) is Square and self.side == other.side\n"
        "    def __hash__(self): return hash(self.side)\n"
        "squares = [Square(2), Square(5)]; by_square = {squares[0]: 'two'}\n"
        "class Child(Square):\n"
        "    def area(self): return -super().area()\n"
        "child = Child(4)\n"
        "class Colour(enum.Enum):\n"
        "    RED = 1\n"
        "    BLUE = 2\n"
        "class Bits(enum.Flag):\n"
        "    A = enum.auto()\n"
        "    B = enum.auto()\n"
        "colour, bits = Colour.BLUE, Bits.A | Bits.B\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Point:\n"
        "    x: int\n"
        "    y: list = dataclasses.field(default_factory=list)\n"
        "point = Point(1)\n"
        "Row = collections.namedtuple('Row', 'a b'); row = Row(1, 2)\n"
        "UserId = typing.NewType('UserId', int)\n"
        "class Own:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def __reduce__(self): return Own, (self.n + limit,)\n"
        "own = Own(1)\n"
        "class Meta(type):\n"
        "    def hello(cls): return cls.__name__\n"
        "class WithMeta(metaclass=Meta): pass\n"
        "class Needy:\n"
        "    def __setstate__(self, state): self.got = helper(state['n'])\n"
        "    def __init__(self): self.n = 1\n"
        "needy = Needy()\n"
        "def helper(n): return n + limit\n"
        "nothing = Square.__new__(Square); method = squares[1].area",
    )
    for true in (
        "[s.area() for s in squares] == [4, 25] and squares[1].big",
        "type(squares[0]) is Square and isinstance(child, Base) and child.area() == -16",
        "by_square[squares[0]] == 'two' and by_square[Square(2)] == 'two'",
        "Square.made is Base.made and Base.made[0] is squares[0]",
        "Square.unit().side == 1 and Colour.BLUE is colour and Colour(2) is colour",
        "bits == Bits.A | Bits.B and type(bits) is Bits",
        "[f.name for f in dataclasses.fields(point)] == ['x', 'y']",
        "point == Point(1) and dataclasses.replace(point, x=2).x == 2",
        "type(row) is Row and row._asdict() == {'a': 1, 'b': 2}",
        "UserId(3) == 3 and UserId.__name__ == 'UserId'",
        "type(own) is Own and own.n == 4 and WithMeta.hello() == 'WithMeta'",
        "not hasattr(nothing, 'side')",
        "method() == 25 and method.__self__ is squares[1]",
    ):
        assert kernel.value(true) is True, true
    # What rebuilds an object may use what the namespace had.
    assert kernel.value("needy.got") == 1 + 3
    kernel.run("limit = 9")
    assert kernel.value("squares[1].big") is False


def test_values_of_all_kinds_come_back_the_same(house: Sessions) -> None:
    code = (
        "import array, collections, datetime, decimal, fractions, io, itertools, logging, pathlib\n"
        "import numpy as np, pandas as pd, re, types, uuid, random, concurrent.futures\n"
        "rng = np.random.default_rng(3); text = 'ä\\ud800' * 50_000; raw = b'x' * 300_000\n"
        "buffer = bytearray(b'abc'); view = memoryview(buffer)\n"
        "numbers = [0, -1, 2**200, 1.5, float('inf'), 1j, True, None, ...]\n"
        "sets = {1, (2, 3), frozenset([4])}\n"
        "ordered = collections.OrderedDict(a=1); counts = collections.Counter('aab')\n"
        "queue = collections.deque([1], maxlen=2); chars = array.array('i', [1, 2])\n"
        "when = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)\n"
        "path, pattern = pathlib.Path('/tmp'), re.compile('a+', re.I)\n"
        "money, third = decimal.Decimal('1.10'), fractions.Fraction(1, 3)\n"
        "stream = io.StringIO('abc'); _ = stream.read(1); log = logging.getLogger('x.y')\n"
        "space = types.SimpleNamespace(a=1); bound = [].append; dice = random.Random(5)\n"
        "frame = pd.DataFrame({'n': range(5), 's': list('abcde'),\n"
        "  'c': pd.Categorical(list('xxyyz')),\n"
        "  't': pd.date_range('2026-01-01', periods=5, tz='UTC')}, index=list('vwxyz'))\n"
        "grid = np.arange(60_000.0).reshape(200, 300); strided = grid[::2, ::3].copy(order='F')\n"
        "mixed = np.array([{'a': 1}, None], dtype=object); scalar = np.float32(2.5)\n"
        "table = np.zeros(3, dtype=[('a', 'i4'), ('b', 'U3')])\n"
        "masked = np.ma.array([1, 2], mask=[0, 1]); executor = concurrent.futures\n"
        "_private = 5; error = ValueError('no'); ellipsis = ...\n"
        "def fingerprint():\n"
        "    texts = [numbers, sets, ordered, counts, queue, chars, when, path, pattern, money,\n"
        "      third, space, mixed, scalar, table, masked, error, frame.dtypes.tolist(), log]\n"
        "    return [*map(repr, texts), frame.to_csv(), float(grid.sum()), executor.__name__,\n"
        "      strided.flags.f_contiguous, strided.tolist()[3][:4], _private, len(text),\n"
        "      text[:2].encode('utf-8', 'surrogatepass').hex(), raw[:3].decode(),\n"
        "      bytes(view).decode(), stream.read(), rng.random(), dice.random()]\n"
    )
    first, second = house.pair()
    first.run(code)
    first.ask(f"save({str(house.file)!r})")
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == []
    assert second.value("fingerprint()") == first.value("fingerprint()")
    second.run("buffer[0] = 120; frame.loc['v', 'n'] = 7; grid[0, 0] = 7")
    assert second.value("[bytes(view).decode(), int(frame.n.iloc[0])]") == ["xbc", 7]


def test_a_variable_that_cannot_be_brought_back_takes_no_other_with_it(
    house: Sessions, tmp_path: Path
) -> None:
    (tmp_path / "gone.py").write_text(
        "class Thing:\n    pass\ndef function():\n    pass\nclass Base:\n    pass\n"
    )
    (tmp_path / "strict.py").write_text(
        "import os\n"
        "class Strict:\n"
        "    def __init__(self): self.a = [1]\n"
        "    def __setstate__(self, state):\n"
        "        if 'NEW' in os.environ: raise ValueError('not here')\n"
        "        self.__dict__.update(state)\n"
        "class Maker:\n"
        "    def __new__(cls):\n"
        "        if 'NEW' in os.environ: raise OSError('no device')\n"
        "        return super().__new__(cls)\n"
        "def make():\n"
        "    if 'NEW' in os.environ: raise SystemExit('bye')\n"
        "    return Made()\n"
        "class Made:\n"
        "    def __reduce__(self): return make, ()\n"
        "class Meta(type):\n"
        "    def __setattr__(cls, name, value):\n"
        "        if 'NEW' in os.environ: raise TypeError('fixed')\n"
        "        super().__setattr__(name, value)\n"
    )
    first = house.start(path=[tmp_path])
    first.run(
        "import gone, numpy as np\n"
        "from gone import Thing, function\n"
        "shared = [1]; kind = np.dtype('f8')\n"
        "thing = Thing(); thing.shared = shared\n"
        "things = [shared, {'t': (thing,)}, np.arange(9.0)]\n"
        "objects = np.array([thing, None], dtype=object)\n"
        "class Derived(gone.Base): pass\n"
        "derived = Derived()\n"
        "def uses(): return thing\n"
        "after = [shared, np.arange(9.0)]; again = {'x': after}\n"
        "thing"
    )
    first.ask(f"save({str(house.file)!r})")
    (tmp_path / "gone.py").unlink()
    second = house.start()
    # What is only missing is gone on without at full speed.
    second.run("import gpu_share_kernel.snapshot as s\ns.unpickles.CarefulLoader = None\ndel s")
    said = second.ask(f"restore({str(house.file)!r})")
    why = {row["name"]: row["why"] for row in said["failed"]}
    lost = {"gone", "Thing", "function", "thing", "things", "objects", "Derived", "derived"}
    assert set(why) == lost | {"Out[1]", "_", "_1"}
    assert set(why.values()) == {"the module gone is not here"}
    assert said["restored"] == len(said["manifest"]["names"]) - len(lost)
    assert (
        second.value("after[0] is shared and again['x'] is after and float(after[1].sum())") == 36
    )
    assert second.value("[n for n in ('thing', 'things', 'Derived') if n in globals()]") == []
    assert "not restored: `gone` (the module gone is not here)" in said["line"]
    # Where not a name is missing but its code fails, everything else comes back as well.
    first.run(
        "del thing, things, objects, derived, Derived, gone, Thing, function, _, _1; Out.clear()\n"
        "import strict\n"
        "one, two, three = strict.Strict(), strict.Maker(), strict.Made()\n"
        "held = {'one': [one], 'shared': shared}; maker = [two, shared]; known = {three: 1}\n"
        "grid = np.arange(60_000.0); near = [grid, strict]\n"
        "class Fixed(metaclass=strict.Meta): x = 1\n"
        "fixed = [Fixed]"
    )
    first.ask(f"save({str(house.file)!r})")
    third = house.start(path=[tmp_path], NEW="1")
    said = third.ask(f"restore({str(house.file)!r})")
    why = {row["name"]: row["why"] for row in said["failed"]}
    assert why == {
        "one": "ValueError: not here",
        "two": "OSError: no device",
        "three": "SystemExit: bye",
        "held": "ValueError: not here",
        "maker": "OSError: no device",
        "known": "SystemExit: bye",
        "Fixed": "fixed",
        "fixed": "fixed",
    }
    assert third.value("after[0] is shared and again['x'] is after and near[0] is grid")
    assert third.value("[float(grid[-1]), near[1] is strict, uses.__name__]") == [
        59999,
        True,
        "uses",
    ]


def test_the_user_is_told_in_one_line(house: Sessions) -> None:
    first, second = house.pair()
    first.run("a, b = 1, 2\ng = (i for i in [])\nf = open('/dev/null')\njobs = [g]")
    first.ask(f"save({str(house.file)!r})")
    line = second.ask(f"restore({str(house.file)!r})")["line"]
    size = house.file.stat().st_size
    assert line == (
        f"2 variables are back ({size / 1024:.3g} KiB); "
        "not kept: generator `g`, open file `f`, list `jobs`."
    )


def test_another_version_of_python_is_refused(house: Sessions) -> None:
    first, second = house.pair()
    first.run("import platform; a = 1")
    first.run("import platform; platform.python_version = lambda: '3.7.1'")
    first.ask(f"save({str(house.file)!r})")
    second.run("a = 2")
    with pytest.raises(Exception, match=r"The snapshot is of Python 3\.7, and here runs 3"):
        second.ask(f"restore({str(house.file)!r})")
    assert second.value("a") == 2
