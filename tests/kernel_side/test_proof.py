"""What a fresh process finds that reads saved variables back, before anything is freed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sessions import CellError, Session, Sessions
from waiting import eventually

from jupyter_gpu_share.kernel_side import PATH

sys.path.append(str(Path(__file__).parents[1] / "local"))
from mounts import in_own_mounts

pytestmark = pytest.mark.slow

SECONDS = 60.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=1)) as made:
        yield made


def proven(kernel: Session, file: Path, *, lose: bool) -> dict[str, Any]:
    found: dict[str, Any] = kernel.ask(f"save({str(file)!r}, None, [], {SECONDS}, lose={lose})")
    return found


def told(found: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["why"] for row in found["disproved"]}


def children(kernel: Session) -> list[int]:
    pid = kernel.process.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if "proof" in Path(f"/proc/{each}/cmdline").read_text()]


FAILING = {
    "an exception with its own __init__": (
        (
            "class Failed(Exception):\n"
            "    def __init__(self, trial, why):\n"
            "        super().__init__(f'{trial}: {why}'); self.trial = trial\n"
            "results = [(0, 0.9), (1, Failed(1, 'nan'))]"
        ),
        {"results"},
    ),
    "a text and a dict with other ways to be made": (
        (
            "class Text(str):\n"
            "    def __new__(cls, a, b): return super().__new__(cls, a + b)\n"
            "class Scaled(dict):\n"
            "    def __setitem__(self, key, value): super().__setitem__(key, value * self.by)\n"
            "text = Text('a', 'b'); scaled = Scaled(); scaled.by = 2; scaled['a'] = 1"
        ),
        {"text", "scaled"},
    ),
    "an array of ctypes": ("import ctypes\nfloats = (ctypes.c_double * 3)()", {"floats"}),
    "a value that is another one afterwards": (
        (
            "class Doubled:\n"
            "    def __init__(self, n): self.n = n\n"
            "    def __reduce__(self): return Doubled, (2 * self.n,)\n"
            "doubled = Doubled(1)"
        ),
        {"doubled"},
    ),
    "attributes that are the dictionary itself": (
        (
            "class Bag(dict):\n"
            "    def __init__(self, **kw): super().__init__(kw); self.__dict__ = self\n"
            "bag = Bag(a=1)"
        ),
        {"bag"},
    ),
    "an array that lies over other memory": (
        (
            "import numpy as np\n"
            "class Over:\n"
            "    def __init__(self, raw): self.raw, self.seen = raw, np.frombuffer(raw, np.uint8)\n"
            "    def __reduce__(self): return apart, (self.raw, self.seen)\n"
            "def apart(raw, seen):\n"
            "    over = Over(bytearray(raw)); over.raw = raw\n"
            "    return over\n"
            "over = Over(bytearray(b'abc' * 20))"
        ),
        {"over"},
    ),
    "memory that is not shared any more": (
        (
            "import numpy as np\n"
            "whole = np.zeros(3, [('o', 'O', 3), ('n', 'i4')]); part = whole['o'][1:, 2]"
        ),
        {"part"},
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_what_does_not_come_back_is_told_and_all_else_is_saved(
    house: Sessions, tmp_path: Path, what: str
) -> None:
    code, lost = FAILING[what]
    kernel = house.start()
    kernel.run(f"other = {{'rows': [1, 2]}}; same = other['rows']\n{code}")
    refused = proven(kernel, tmp_path / "kept", lose=False)
    assert set(told(refused)) == lost
    assert (tmp_path / "kept").exists() is not bool(lost)
    found = proven(kernel, tmp_path / "kept", lose=True)
    assert set(told(found)) == lost
    assert lost <= {row["name"] for row in found["lost"]}
    second = house.start()
    said = second.ask(f"restore({str(tmp_path / 'kept')!r})")
    assert said["failed"] == []
    assert second.value("other['rows'] is same") is True
    assert not lost & set(second.value("list(globals())"))
    for each in (kernel, second):
        each.close()


KEPT = """
import abc, array, collections, dataclasses, datetime, decimal, enum, functools, re, sys, typing
import pydantic
import matplotlib; matplotlib.use("agg"); import matplotlib.pyplot as plt
import numpy as np, pandas as pd
base = np.arange(24.0).reshape(4, 6); row, column, back = base[1], base[:, 2], base[::-1, ::2]
hidden = np.arange(10); part = hidden[2:5]; other = hidden[4:]; del hidden
odd = np.arange(100_000)[::3]; columns = np.asfortranarray(base); fixed = base[0]
fixed.flags.writeable = False
times = np.array(['2026-01-01'], dtype='M8[D]'); records = np.zeros(3, dtype=[('a', 'i4')])
texts = np.array(['a', 1, None], dtype=object); some = texts[1:]
masked = np.ma.masked_array(base, base > 3); bare = masked.data
raw = bytearray(64); over = np.frombuffer(raw, np.uint8)[8:]; numbers = array.array("d", [1, 2])
on = np.frombuffer(numbers); windows = np.lib.stride_tricks.sliding_window_view(odd, 9)
frame = pd.DataFrame({'a': [1.0, 2.0], 'b': ['x', 'y']}); series = frame['a']
fig, ax = plt.subplots(); ax.plot([1, 2])
class Point:
    def __init__(self, name): self.name = name
    def __eq__(self, other): raise RuntimeError("compared")
    __hash__ = object.__hash__
points = {Point(str(n)) for n in range(40)}; words = {f"word {n}" for n in range(200)}
rows = [{"name": n, "word": str(n)} for n in range(100)]; name = "name"; key = frozenset("hello")
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
@dataclasses.dataclass
class Run:
    colour: Colour
    steps: list = dataclasses.field(default_factory=list)
    def last(self): return name
run = Run(Colour.RED); by = {Colour.BLUE: run}
class Config(pydantic.BaseModel):
    lr: float
    @pydantic.field_validator("lr")
    @classmethod
    def positive(cls, v): return abs(v)
config = Config(lr=-1)
class Base(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Base):
    __slots__ = ("side",)
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2
square = Square(2)
@functools.lru_cache(maxsize=None)
def cached(n): return n
def outer(n):
    def inner(): return n, len(words), np.pi
    return inner
inner = outer(3)
UserId = typing.NewType("UserId", int)
mixed = [re.compile("a+"), decimal.Decimal("1.2"), collections.Counter("abc"), 1j, float("nan"),
         datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), b"x", bytearray(b"y")]
import pathlib; pathlib.Path("shelves.py").write_text(
    "class Shelf:\\n    def __init__(self, rows): self.rows = dict(sorted(rows.items()))\\n"
    "    def __reduce__(self): return Shelf, (self.rows,)")
import shelves; shelf = shelves.Shelf({}); shelf.rows = {"b": [1], "a": {"d": 1, "c": 2}}
loop = []; loop.append(loop); everything = globals(); shell = get_ipython(); out = sys.stdout
kernel = shell.kernel
"""


def test_what_comes_back_the_same_is_not_told(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run(KEPT)
    assert told(proven(kernel, tmp_path / "kept", lose=False)) == {}
    kernel.close()


def test_one_loss_takes_nothing_with_it(house: Sessions, tmp_path: Path) -> None:
    """What comes after it is told by what it holds itself."""
    kernel = house.start()
    shared = "common = [1, 2]\n"
    code = FAILING["a value that is another one afterwards"][0]
    kernel.run(f"{shared}{code}\ndoubled.common = common; after = [common, {{'x', 'y'}}]")
    kernel.run("holder = [doubled]; last = ['a text', after]")
    assert set(told(proven(kernel, tmp_path / "kept", lose=False))) == {"doubled", "holder"}
    kernel.close()


def test_a_failed_proof_leaves_the_kernel_and_no_file(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run(
        "from gpu_share_kernel.snapshot import proof\nx = list(range(10)); memory = proof._memory"
    )
    file = tmp_path / "kept"
    file.write_bytes(b"of an earlier save")
    for cell, seconds, words in (
        ("", 0.0, "takes longer than it may"),
        ("proof._memory = lambda: 1", SECONDS, "too little memory"),
        ("proof._memory = memory; proof.sys.executable = '/bin/false'", SECONDS, "exit code 1"),
        ("proof.sys.executable = '/no/such'", SECONDS, "No process could be started"),
    ):
        kernel.run(cell)
        before = kernel.value("sorted(globals())")
        with pytest.raises(CellError, match=words):
            kernel.ask(f"save({str(file)!r}, None, [], {seconds})")
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        assert file.read_bytes() == b"of an earlier save"
        assert children(kernel) == []
        assert kernel.value("sorted(globals())") == before
    assert kernel.value("sum(x)") == 45
    kernel.close()


LITTLE = "\nfrom gpu_share_kernel.snapshot import proof\nproof._memory = lambda: 200 * 2**20"


@pytest.mark.parametrize(
    "code",
    [
        "class Large:\n    def __reduce__(self): return bytearray, (2**29,)\nlarge = [Large()]",
        (
            "import numpy as np\n"
            "class Large:\n"
            "    def __init__(self): self.data = np.ones(2**26)\n"
            "    def __getstate__(self): return self.data\n"
            "    def __setstate__(self, data): self.data = data; data += 1\n"
            "large = [Large()]"
        ),
    ],
    ids=["it is made", "its data is changed"],
)
def test_memory_that_does_not_suffice_is_no_loss_of_a_variable(
    house: Sessions, tmp_path: Path, code: str
) -> None:
    kernel = house.start()
    kernel.run(code + LITTLE)
    with pytest.raises(CellError, match="There is too little memory"):
        proven(kernel, tmp_path / "kept", lose=False)
    assert list(tmp_path.iterdir()) == []
    assert kernel.value("len(large)") == 1
    kernel.close()


def test_the_data_of_arrays_takes_no_memory_for_the_proof(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run(
        "import numpy as np\n"
        "large = [np.ones(2**24) * n for n in range(4)]; part = large[1][5:]; odd = large[2][::3]"
        + LITTLE
    )
    assert told(proven(kernel, tmp_path / "kept", lose=False)) == {}
    assert (tmp_path / "kept").stat().st_size > 512 * 2**20
    kernel.close()


def test_what_is_the_same_is_looked_at_once(house: Sessions, tmp_path: Path) -> None:
    """By the save, and by the proof; the second look at what differs is for that alone."""
    kernel = house.start()
    kernel.run(
        # A counter among the variables would itself be another one afterwards.
        "import numpy as np, collections\ncollections.looks = collections.Counter()\n"
        "class Looked:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def __getstate__(self):\n"
        "        if hasattr(collections, 'looks'): collections.looks[self.name] += 1\n"
        "        return {'name': self.name}\n"
        "before = Looked('before'); base = np.arange(10.0).reshape(2, 5); row = base[1]\n"
        "lost = (n for n in []); holds = [lost, Looked('held')]; rows = [Looked('row'), 'row']\n"
        "def f(a: int = 1): return rows"
    )
    kernel.ask(f"save({str(tmp_path / 'kept')!r})")
    assert kernel.value("collections.looks") == {"before": 1, "row": 1}
    kernel.run("collections.looks.clear()")
    assert told(kernel.ask(f"save({str(tmp_path / 'kept')!r}, seconds={SECONDS})")) == {}
    assert kernel.value("collections.looks") == {"before": 2, "row": 2}
    kernel.run("collections.looks.clear()")
    with pytest.raises(CellError, match="takes longer than it may"):
        kernel.ask(f"save({str(tmp_path / 'kept')!r}, seconds=0.0)")
    assert kernel.value("collections.looks") == {"before": 1, "row": 1}, "by the save alone"
    kernel.close()


SLOW = """
import os, time
class Slow:
    def __reduce__(self): return wait, ()
def wait():
    if os.path.exists({mark!r}): time.sleep(600)
    return Slow()
slow = Slow()
"""


async def test_an_interrupt_ends_the_proof(house: Sessions, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "kept"
    mark.touch()
    kernel = house.start()
    kernel.run(SLOW.format(mark=str(mark)))
    sent = kernel.client.execute(
        "", silent=True, user_expressions={"it": _asked("save", file)}, store_history=False
    )
    await eventually(lambda: bool(children(kernel)), "the proof to begin")
    child = children(kernel)[0]
    assert Path(f"/proc/{child}/oom_score_adj").exists()
    await eventually(lambda: _score(child) == 1000, "it to be the first to end")
    os.kill(kernel.process.pid, 2)
    reply = kernel.client.get_shell_msg(timeout=SECONDS)
    assert reply["parent_header"]["msg_id"] == sent
    assert children(kernel) == []
    assert not Path(f"/proc/{child}").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]
    assert kernel.value("type(slow).__name__") == "Slow"
    kernel.close()


async def test_the_proof_ends_with_its_kernel(house: Sessions, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "kept"
    mark.touch()
    kernel = house.start()
    kernel.run(SLOW.format(mark=str(mark)))
    kernel.client.execute("", silent=True, user_expressions={"it": _asked("save", file)})
    await eventually(lambda: bool(children(kernel)), "the proof to begin")
    child = children(kernel)[0]
    await eventually(lambda: _score(child) == 1000, "it to be ready")
    os.kill(kernel.process.pid, 9)
    kernel.process.wait(SECONDS)
    await eventually(lambda: not Path(f"/proc/{child}").exists(), "it to end")


def _asked(what: str, file: Path) -> str:
    return (
        "__import__('gpu_share_kernel.asked', fromlist=['answer'])"
        f".answer({what!r}, path={str(file)!r}, limit=None, allowed=[], seconds={SECONDS})"
    )


def _score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


ON_A_SMALL_DISK = """
import os, subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
sys.path.insert(0, {path!r})
from gpu_share_kernel import snapshot
from gpu_share_kernel.snapshot import proof
kept, rows = os.path.join(folder, "kept"), [bytes([n]) * 100_000 for n in range(20)]

def fill():
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            return error.strerror

def full(path, entries, seconds):
    global said
    said = fill()
    return usual(path, entries, seconds)

usual, proof.prove = proof.prove, full
found = snapshot.save(kept, seconds=60)
print(said, found["disproved"], sorted(os.listdir(folder)))
try:
    snapshot.save(kept, seconds=60)
except snapshot.Refused as error:
    print(error, sorted(os.listdir(folder)), len(rows))
rows = None
print(snapshot.restore(kept)["failed"], len(rows))
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The proof needs none of it; and what does not fit leaves what was there."""
    lines = in_own_mounts(ON_A_SMALL_DISK.format(path=str(PATH)), tmp_path).splitlines()
    assert lines == [
        "No space left on device [] ['filler', 'kept']",
        "The snapshot cannot be written: No space left on device. ['filler', 'kept'] 20",
        "[] 20",
    ]
