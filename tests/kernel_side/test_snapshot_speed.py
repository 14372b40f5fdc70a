"""What is slow is so for itself alone: what fails, and what is not as it was taken to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sessions import Sessions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


def test_only_what_fails_is_read_slowly(house: Sessions) -> None:
    first, second = house.pair()
    first.run(
        "import numpy as np\n"
        "class Bad(Exception):\n"
        "    def __init__(self, a, b): super().__init__(a)\n"
        "shared = [1]; large = np.arange(60_000.0); before = [shared, large]\n"
        "bad = [Bad(1, 2), shared, large[5:], np.arange(50_000.0)]; worse = {'x': Bad(3, 4)}\n"
        "behind = [{'n': n} for n in range(1000)]; after = [shared, large[1:], behind]\n"
        "last = np.ones(70_000)"
    )
    first.ask(f"save({str(house.file)!r})")
    second.run(
        "from gpu_share_kernel.snapshot import unpickles as u\n"
        "class Counting(u.CarefulLoader):\n"
        "    read = 0\n"
        "    def next(self):\n"
        "        Counting.read += 1\n"
        "        return super().next()\n"
        "u.CarefulLoader = Counting\n"
        "del u"
    )
    failed = second.ask(f"restore({str(house.file)!r})")["failed"]
    assert {row["name"] for row in failed} == {"bad", "worse"}
    assert second.ask("CarefulLoader.read", "snapshot.unpickles") == 2
    assert second.value(
        "[before[0] is shared, after[0] is shared, np.shares_memory(after[1], large),"
        " before[1] is large, after[2] is behind, len(behind), float(large[9]), float(last[-1])]"
    ) == [True, True, True, True, True, 1000, 9.0, 1.0]


SHOWN = """
import collections, numpy as np, pandas as pd
def looked(obj):
    if hasattr(collections, 'looks'): collections.looks += 1
    return {}
Looked = type('Looked', (), {'__getstate__': looked, '__module__': '__main__'})
"""


@pytest.mark.parametrize(
    ("code", "check", "looks"),
    [
        ("part = np.arange(10**6)[:10]", "len(part)", 1),
        ("part = np.arange(20).reshape(4, 5)", "part.tolist()", 1),
        ("row, base = (x := np.arange(9))[2:], x; del x", "np.shares_memory(row, base)", 1),
        ("x = np.arange(9); head, tail = x[:6], x[3:]; del x", "np.shares_memory(head, tail)", 1),
        ("frame = pd.DataFrame({'a': [1.0, 2.0]}); column = frame['a']", "column.tolist()", 1),
        # These turn out to be shared only afterwards, or not to be: a trial, and saved again.
        ("collections.all = np.zeros(10**6); part = collections.all[-9:]", "part.tolist()", 3),
        (
            (
                "x = np.arange(12.0); frame = pd.DataFrame(x.reshape(3, 4), copy=False)\n"
                "rows = x.reshape(3, 4)[1:]; del x"
            ),
            "np.shares_memory(rows, frame.to_numpy())",
            3,
        ),
    ],
)
def test_memory_that_arrays_share_is_mostly_known_at_once(
    house: Sessions, code: str, check: str, looks: int
) -> None:
    first, second = house.pair()
    first.run(f"{SHOWN}{code}\nlooked_at = Looked(); collections.looks = 0")
    found = first.ask(f"save({str(house.file)!r})")
    assert first.value("collections.looks") == looks
    assert found["bytes"] < 10**5, "no more than what is shown"
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value(check) == first.value(check)
    first.close()
    second.close()


def test_many_variables_are_read_at_once(house: Sessions) -> None:
    """Also where one that is read for itself is in between."""
    first, second = house.pair()
    first.run(
        "class Own:\n    def __init__(self, n): self.n = n\n"
        "one = [0]; globals().update({f'a{n}': [n, one] for n in range(1500)})\n"
        "own = Own(one); deep = [[[[[[[[[[[own]]]]]]]]]]]\n"
        "globals().update({f'b{n}': {'n': one, 's': {n, str(n)}} for n in range(500)}); last = own"
    )
    first.ask(f"save({str(house.file)!r})")
    second.run(
        "from gpu_share_kernel.snapshot import unpickles as u\n"
        "class Counting(u.Loader):\n"
        "    read = 0\n"
        "    def next(self):\n"
        "        Counting.read += 1\n"
        "        return super().next()\n"
        "u.Loader = Counting\n"
        "del u"
    )
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.ask("Loader.read", "snapshot.unpickles") < 30
    assert second.value(
        "all(globals()[f'a{n}'] == [n, one] and globals()[f'a{n}'][1] is one for n in range(1500))"
        " and all(globals()[f'b{n}'] == {'n': one, 's': {n, str(n)}} for n in range(500))"
        " and own.n is one and last is own and deep[0][0][0][0][0][0][0][0][0][0][0] is own"
    )
