"""Arrays of many texts come back as they were, and are not looked at text by text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sessions import PEAK, Sessions

pytestmark = pytest.mark.slow

#: More than are written at once.
COUNT = 40_000
CODE = f"""
import numpy as np, pandas as pd
count = {COUNT}
plain = np.array(['text %d' % n for n in range(count)], dtype=object)
frame = pd.DataFrame({{'a': ['row %d' % n for n in range(count)], 'n': range(count)}})
missing = frame['a'].copy(); missing.iloc[[3, count - 3]] = None
letters = np.array(['ä€\\U0001f600\\udc80%d' % n for n in range(count)], dtype=object)
ends = np.array([('\\0' if n % 20_000 == 5 else '') + str(n) for n in range(count)], dtype=object)
few = ['red ' * 5, 'blue ' * 5]
often = np.array([few[n % 2] for n in range(count)], dtype=object)
names = ['name %d' % n for n in range(count)]; shared = np.array(names, dtype=object)
mixed = plain.copy(); mixed[7] = [1, 2]; mixed[8] = mixed; mixed[9] = None; mixed[10] = few
square = np.array(['%d' % n for n in range(count)], dtype=object).reshape(200, -1)
columns = np.asfortranarray(square); turned = columns.T; every = columns[::3, ::2]
whole = np.array(['of all %d' % n for n in range(count)], dtype=object); part = whole[5:]
class Text(str): pass
own = np.array([Text(n) for n in range(count)], dtype=object)
empty = np.array([''] * count, dtype=object)
def fingerprint():
    import hashlib
    rows = [plain, frame['a'], missing, letters, ends, often, shared, square, columns, turned,
            every, whole, part, own, empty, np.delete(mixed, 8)]
    return [hashlib.md5(ascii(np.asarray(each).tolist()).encode()).hexdigest() for each in rows] + [
        frame.dtypes.astype(str).tolist(), str(missing.isna().sum()), columns.flags.f_contiguous]
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"))) as made:
        yield made


def test_arrays_of_texts_come_back_the_same(house: Sessions) -> None:
    first, second = house.pair()
    first.run(CODE)
    digest = first.ask(f"save({str(house.file)!r}, seconds=60.0)")
    assert digest["lost"] == digest["disproved"] == []
    said = second.ask(f"restore({str(house.file)!r}, {digest['digest']!r})")
    assert said["failed"] == []
    assert second.value("fingerprint()") == first.value("fingerprint()")
    for true in (
        "mixed[8] is mixed and mixed[10] is few and mixed[7] == [1, 2]",
        "often[0] is often[2] is few[0]",
        "shared[5] is names[5] and shared[-1] is names[-1]",
        "type(own[3]) is Text and np.shares_memory(whole, part)",
    ):
        assert second.value(true) is True, true
    second.run("whole[5] = 'new'")
    assert second.value("part[0]") == "new"


def test_another_text_is_found_by_the_proof(house: Sessions) -> None:
    kernel = house.start()
    kernel.run(
        "import numpy as np\n"
        "class Texts:\n"
        "    def __init__(self): self.rows = np.array([str(n) for n in range(20_000)], object)\n"
        "    def __reduce__(self): return made, (self.rows,)\n"
        "def made(rows):\n"
        "    rows[19_000] = 'another'\n"
        "    texts = Texts.__new__(Texts); texts.rows = rows\n"
        "    return texts\n"
        "texts = Texts()"
    )
    found = kernel.ask(f"save({str(house.file)!r}, seconds=60.0)")
    assert [row["name"] for row in found["disproved"]] == ["texts"]


def test_texts_take_no_memory_on_their_way(house: Sessions) -> None:
    """Neither their bytes nor what a pickler remembers of each."""
    first, second = house.pair()
    first.run(
        f"{PEAK}import numpy as np\nbefore = status('VmRSS')\n"
        "texts = np.array(['%08d ' % n * 10 for n in range(1_000_000)], dtype=object)\n"
        "state = status('VmRSS') - before"
    )
    state = first.value("state")
    assert first.value(f"more(lambda: s.save({str(house.file)!r}))") < 0.1 * state
    second.run(f"import numpy\n{PEAK}")
    assert second.value(f"more(lambda: s.restore({str(house.file)!r}))") < 1.1 * state
    assert second.value("texts[-1][:9]") == "00999999 "
