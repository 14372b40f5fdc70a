"""What cannot be saved is named before anything is written, and takes nothing else with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sessions import CellError, Session, Sessions

pytestmark = pytest.mark.slow

#: How each is made, and what it is called.
UNSAVEABLE = {
    "generator": "(i for i in [])",
    "coroutine": "nothing()",
    "asynchronous generator": "many()",
    "open file": "open('/dev/null')",
    "open file ": "open('/dev/null', 'rb')",
    "file": "closed()",
    "temporary file": "tempfile.NamedTemporaryFile()",
    "temporary folder": "tempfile.TemporaryDirectory()",
    "socket": "socket.socket()",
    "lock": "threading.Lock()",
    "lock ": "threading.RLock()",
    "lock  ": "threading.Condition()",
    "lock   ": "asyncio.Lock()",
    "lock    ": "multiprocessing.Lock()",
    "event": "threading.Event()",
    "semaphore": "threading.Semaphore()",
    "barrier": "threading.Barrier(1)",
    "thread": "threading.Thread(target=len)",
    "thread-local data": "threading.local()",
    "queue": "queue.Queue()",
    "queue ": "queue.SimpleQueue()",
    "queue  ": "multiprocessing.Queue()",
    "asyncio task": "asyncio.ensure_future(soon())",
    "asyncio future": "asyncio.get_running_loop().create_future()",
    "event loop": "asyncio.new_event_loop()",
    "future": "concurrent.futures.Future()",
    "pool of workers": "concurrent.futures.ThreadPoolExecutor()",
    "child process": "subprocess.Popen(['true'])",
    "child process ": "multiprocessing.Process()",
    "database connection": "sqlite3.connect(':memory:')",
    "database cursor": "sqlite3.connect(':memory:').cursor()",
    "weak reference": "weakref.ref(threading)",
    "weak reference ": "weakref.proxy(threading)",
    "finalizer": "weakref.finalize(threading, len)",
    "dictionary of weak references": "weakref.WeakValueDictionary()",
    "context variable": "contextvars.ContextVar('x')",
    "context manager": "contextlib.contextmanager(gen)()",
    "memory map of a file": "mmap.mmap(-1, 10)",
    "block of shared memory": "shared()",
    "array that is mapped from a file": "np.memmap(tempfile.mktemp(), shape=3, mode='w+')",
    "hash in the making": "hashlib.sha256()",
    "compressor": "zlib.compressobj()",
    "CSV reader": "csv.reader([])",
    "listing of a folder": "os.scandir()",
    "entry of a folder's listing": "next(os.scandir('/'))",
    "selector": "selectors.DefaultSelector()",
    "poll object": "select.poll()",
    "SSL context": "ssl.create_default_context()",
    "C library": "ctypes.CDLL(None)",
    "function of a C library": "ctypes.CDLL(None).abs",
    "log handler": "logging.StreamHandler()",
    "frame of a running function": "sys._getframe()",
    "traceback": "trace()",
    "ZeroMQ context": "zmq.Context()",
    "XML parser": "xml.parsers.expat.ParserCreate()",
    "window": "tkinter.Misc()",
}
IMPORTS = (
    "import asyncio, concurrent.futures, contextlib, contextvars, csv, ctypes, hashlib, logging\n"
    "import mmap, multiprocessing, multiprocessing.shared_memory, numpy as np, os, queue, select\n"
    "import selectors, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, weakref, zlib\n"
    "import xml.parsers.expat, zmq\n"
    "try:\n"
    "    import tkinter\n"
    "except ImportError:  # not part of every Python: the same names will do\n"
    "    import types\n"
    "    tkinter = types.ModuleType('tkinter')\n"
    "    exec('class Misc: pass', vars(tkinter))\n"
    "    tkinter.Misc.__module__ = 'tkinter'\n"
    "    sys.modules['tkinter'] = tkinter\n"
    "async def nothing(): pass\n"
    "async def many(): yield\n"
    "async def soon(): await asyncio.sleep(60)\n"
    "def gen(): yield\n"
    "def closed():\n"
    "    with open('/dev/null') as file: return file\n"
    "def shared():\n"
    "    block = multiprocessing.shared_memory.SharedMemory(create=True, size=8)\n"
    "    block.unlink()\n"
    "    return block\n"
    "def trace():\n"
    "    try: 1 / 0\n"
    "    except ZeroDivisionError as error: return error.__traceback__\n"
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=1)) as made:
        yield made


@pytest.fixture(scope="module")
def crowded(house: Sessions) -> Session:
    """A kernel that has one variable of each kind that cannot be saved."""
    kernel = house.start()
    kernel.run(IMPORTS)
    kernel.run("\n".join(f"v{n} = {code}" for n, code in enumerate(UNSAVEABLE.values())))
    return kernel


def test_every_kind_is_named_before_anything_is_written(crowded: Session, tmp_path: Path) -> None:
    found = crowded.ask("survey()")
    lost = {row["name"]: row for row in found["lost"]}
    assert {name: row["what"] for name, row in lost.items()} == {
        f"v{n}": what.strip() for n, what in enumerate(UNSAVEABLE)
    }
    for row in lost.values():
        a = "an" if row["what"][0] in "aeio" else "a"
        assert row["why"] == f"{a} {row['what']} cannot be saved"
    assert len({what.strip() for what in UNSAVEABLE}) > 20
    manifest = crowded.ask(f"save({str(tmp_path / 'file')!r})")
    assert manifest["lost"] == found["lost"]
    assert manifest["variables"] == found["variables"] == len(manifest["names"]) > 20


def test_only_what_is_allowed_may_be_lost(crowded: Session, tmp_path: Path) -> None:
    file = tmp_path / "file"
    most = [f"v{n}" for n in range(2, len(UNSAVEABLE))]
    with pytest.raises(
        CellError, match="Refused: The variables are not saved: `v0`, `v1` would be"
    ):
        crowded.ask(f"save({str(file)!r}, allowed={most!r})")
    assert list(tmp_path.iterdir()) == []
    crowded.ask(f"save({str(file)!r}, allowed={['v0', 'v1', *most]!r})")


def test_what_holds_such_a_thing_says_so(house: Sessions) -> None:
    kernel = house.start()
    kernel.run(
        "import functools, threading, typing, weakref\n"
        "g = (i for i in [])\n"
        "jobs = [1, {'a': (g,)}]\n"
        "class Box:\n"
        "    def __init__(self, it): self.it = it\n"
        "box = Box(threading.Lock())\n"
        "def reads(file=open('/dev/null')): return file\n"
        "def outer():\n"
        "    def inner(): return g2\n"
        "    g2 = (i for i in [])\n"
        "    return inner\n"
        "inner = outer()\n"
        "part = functools.partial(print, g)\n"
        "class Holder: lock = threading.Lock()\n"
        "class Rude:\n"
        "    def __reduce__(self): raise ValueError('I do not\\nwant to')\n"
        "class Exits:\n"
        "    def __getstate__(self): raise SystemExit\n"
        "class Odd:\n"
        "    def __reduce__(self): return 'Odd'\n"
        "rude, exits, odd = Rude(), Exits(), [Odd()]\n"
        "deep = []\n"
        "for _ in range(100_000): deep = [deep]\n"
        "fine = [1]; also = [fine, len]\n"
        "whole = memoryview(b'abc'); piece = whole[1:]\n"
        "class Local: pass\n"
        "Local.__module__, Local.__qualname__ = 'functools', 'No.Such'\n"
        "class Queue(__import__('queue').Queue):\n"
        "    def __reduce__(self): return Queue, ()\n"
        "own = Queue()\n"
    )
    why = {row["name"]: row["why"] for row in kernel.ask("survey()")["lost"]}
    assert "nested too deeply" in why.pop("deep")
    assert why == {
        "g": "a generator cannot be saved",
        "jobs": "list `jobs` holds a generator, which cannot be saved",
        "box": "Box `box` holds a lock, which cannot be saved",
        "reads": "function `reads` holds an open file, which cannot be saved",
        "inner": "function `inner` holds a generator, which cannot be saved",
        "part": "function `part` holds a generator, which cannot be saved",
        "Holder": "class `Holder` holds a lock, which cannot be saved",
        "rude": "a Rude cannot be saved: ValueError: I do not want to",
        "exits": "an Exits cannot be saved: SystemExit",
        "odd": "list `odd` holds an Odd, which cannot be saved",
        "piece": "a memoryview cannot be saved",
    }
    saved = kernel.ask(f"save({str(house.file)!r})")["names"]
    assert {"fine", "also", "whole", "own", "Local", "Box", "outer"} <= set(saved)
    assert not set(why) & set(saved)


def test_what_fails_only_when_it_is_written_is_left_out_then(house: Sessions) -> None:
    first, second = house.start(), house.start()
    first.run(
        "tries, when = {}, (2, 3)\n"
        "class Moody:\n"
        "    def __init__(self, name): self.name = name\n"
        "    def __getstate__(self):\n"
        "        tries[self.name] = tries.get(self.name, 0) + 1\n"
        "        if tries[self.name] in when: raise ValueError('not now')\n"
        "        return {'name': self.name}\n"
        "one = [1]; moody = [b'x' * 3_000_000, Moody('a')]; other = [one, Moody]"
    )
    assert first.ask("survey()")["lost"] == []
    manifest = first.ask(f"save({str(house.file)!r})")
    assert [row["name"] for row in manifest["lost"]] == ["moody"]
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == [] and "not kept: list `moody`" in said["line"]
    assert second.value("other[0] is one and 'moody' not in globals()")
    # What is sent on at once is looked at before.
    first.run(
        "del moody; tries.clear(); when = (2,)\n"
        "globals().update({f'm{n}': Moody(n) for n in range(9)})\n"
        "chunks = []\n"
        "def sink(chunk): chunks.append(len(chunk))\n"
        "sink.__module__ = 'elsewhere'"
    )
    with pytest.raises(CellError, match="they change while they are looked at"):
        first.ask("write(__import__('IPython').get_ipython().user_ns['sink'])")


def test_a_large_variable_before_a_lost_one_is_counted_once(house: Sessions) -> None:
    kernel = house.start()
    # With little and with much in the pickler's memory its roll-back goes two ways.
    for size in (1_000, 300_000):
        kernel.run(
            f"names = ['name %d' % n for n in range({size})]\n"
            "inner = [(i for i in [])]; jobs = [names, {'a': inner}]; del inner\n"
            "late = [names, jobs[1]]; last = [names]"
        )
        found = kernel.ask("survey()")
        # What was seen before it failed is not taken for savable.
        assert [row["name"] for row in found["lost"]] == ["jobs", "late"]
        path = kernel.folder / "file"
        manifest = kernel.ask(f"save({str(path)!r})")
        assert manifest["bytes"] == path.stat().st_size
        assert manifest["bytes"] * 0.9 < found["bytes"] < manifest["bytes"] * 2.1
        kernel.run("del jobs, late")


def test_what_was_written_of_a_lost_variable_is_taken_back(house: Sessions) -> None:
    first, second = house.start(), house.start()
    first.run(
        "import numpy as np\nshared = [1]; array = np.ones(10_000)\n"
        "jobs = [shared, array, np.ones(10**5), 'x' * 10**6, (i for i in [])]\n"
        "late = [shared, array, 'text']; last = np.arange(10_000)"
    )
    manifest = first.ask(f"save({str(house.file)!r})")
    assert [row["name"] for row in manifest["lost"]] == ["jobs"]
    assert manifest["bytes"] == house.file.stat().st_size < 300_000
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("late[0] is shared and late[1] is array and float(array.sum())") == 10_000
    assert second.value("[late[2], int(last[-1])]") == ["text", 9_999]


def test_outputs_that_cannot_be_saved_are_left_out_one_by_one(house: Sessions) -> None:
    first, second = house.start(), house.start()
    for cell in ("a = [1]", "a", "(i for i in [])", "'text'"):
        first.run(cell)
    manifest = first.ask(f"save({str(house.file)!r})")
    assert [row["name"] for row in manifest["lost"]] == ["Out[3]"], "what `a` shows is `a`"
    assert manifest["outputs_lost"] == [3]
    second.ask(f"restore({str(house.file)!r})")
    assert second.value("[list(Out), Out[2] is a is _2, '_3' in globals(), _, __ is a]") == [
        [2, 4],
        True,
        False,
        "text",
        False,
    ]


def test_without_cloudpickle_nothing_can_be_saved_and_it_is_said_why(house: Sessions) -> None:
    kernel = house.start()
    kernel.run("a = 1; import sys; sys.modules['cloudpickle'] = None")
    found = kernel.ask("survey()")
    why = "cloudpickle is not installed in the kernel's environment."
    assert found["why"] == f"The variables cannot be saved: {why}"
    assert [found["variables"], found["bytes"]] == [0, 0]
    assert {"name": "a", "what": "int", "why": why} in found["lost"]
    house.file.write_bytes(b"what an earlier one has left")
    for call in (f"save({str(house.file)!r})", f"restore({str(house.file)!r})"):
        with pytest.raises(CellError, match="Refused: The variables cannot be"):
            kernel.ask(call)


def test_what_a_variable_warns_of_or_does_not_like_is_no_matter(house: Sessions) -> None:
    kernel = house.start()
    kernel.run(
        "import warnings; warnings.simplefilter('error')\n"
        "class Warns:\n"
        "    def __getstate__(self): warnings.warn('old'); return {}\n"
        "class Strange:\n"
        "    __module__ = property(lambda self: 1 / 0)\n"
        "    def __getattr__(self, name): raise RuntimeError(name)\n"
        "    def __bool__(self): raise RuntimeError\n"
        "    def __eq__(self, other): raise RuntimeError\n"
        "    def __len__(self): return -1\n"
        "class Stranger(Strange):\n"
        "    def __reduce__(self): raise RuntimeError\n"
        "class File(__import__('io').RawIOBase):\n"
        "    closed = property(lambda self: 1 / 0)\n"
        "    __del__ = None\n"
        "file = File.__new__(File)\n"
        "warns, strange, stranger = Warns(), Strange(), [Stranger()]\n"
        "before = list(warnings.filters)"
    )
    found = kernel.ask("survey()")
    lost = {row["name"]: row["what"] for row in found["lost"]}
    assert lost.pop("strange", "Strange") == "Strange", "as its getattr is asked, or is not"
    assert lost == {"stranger": "list", "file": "file"}
    assert kernel.value("warnings.filters == before")
    kernel.ask(f"save({str(house.file)!r})")
