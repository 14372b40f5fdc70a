"""One variable that cannot be rebuilt has only itself read slowly."""

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
