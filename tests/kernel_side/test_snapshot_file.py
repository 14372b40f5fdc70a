"""The file of a snapshot: whole or not there, refused where damaged, no larger than allowed."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gpu_share_kernel.snapshot import records
from plain_digest import MIB, plain_digest
from sessions import PEAK, CellError, Sessions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=1)) as made:
        yield made


def written(*parts: tuple[str, Any], limit: int | None = None) -> bytes:
    """A file of some parts."""
    sink = io.BytesIO()
    writer = records.Writer(sink.write, limit)
    for method, argument in parts:
        getattr(writer, method)(*([] if argument is None else [argument]))
    writer.end()
    return sink.getvalue()


PARTS = (
    ("pickled", b"abc" * 7),
    ("buffer", memoryview(b"0123456789" * 2)),
    ("pickled", b"xyz"),
    ("buffer", memoryview(b"")),
    ("header", {"name": "ä\ud800"}),
)


def read(data: bytes) -> None:
    """Read a file of :data:`PARTS` to its end."""
    reader = records.Reader(io.BytesIO(data))
    reader.read(24)
    next(reader)
    next(reader)
    reader.end()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read() -> None:
    reader = records.Reader(io.BytesIO(written(*PARTS)))
    assert reader.header == {"name": "ä\ud800"}
    assert reader.read(2) == b"ab" and next(reader) == b"0123456789" * 2
    rest = bytearray(22)
    assert reader.readinto(rest) == 22 and rest == (b"abc" * 7 + b"xyz")[2:]
    assert next(reader) == b""
    reader.end()
    reader.rewind()
    assert reader.read(3) == b"abc"
    with pytest.raises(records.Damaged, match="does not end where it should"):
        reader.end()


def test_a_restart_has_everything_before_it_forgotten() -> None:
    data = written(*PARTS, ("restart", None), ("pickled", b"new"), ("header", {"n": 2}))
    reader = records.Reader(io.BytesIO(data))
    assert reader.header == {"n": 2} and reader.read(3) == b"new"
    reader.end()


def test_chunks_are_never_longer_than_8_mib_and_come_without_a_copy() -> None:
    chunks: list[int] = []
    own = bytearray(20 * MIB)
    shared = []

    def sink(chunk: Any) -> None:
        chunks.append(len(chunk))
        shared.append(isinstance(chunk, memoryview) and chunk.obj is own)

    writer = records.Writer(sink)
    writer.buffer(memoryview(own))
    writer.pickled(bytes(17 * MIB))
    writer.pickled(b"z" * 10)
    writer.header({"long": "x" * 9 * MIB})
    writer.end()
    assert max(chunks) == 8 * MIB and sum(chunks) == writer.written
    assert sum(shared) == 3


@pytest.mark.parametrize("at", range(0, 300, 1))
def test_any_changed_byte_and_any_cut_is_found(at: int) -> None:
    data = written(*PARTS)
    assert len(data) <= 300, "every byte is tried"
    changed = bytearray(data)
    changed[at % len(data)] ^= 0x41
    for broken in (bytes(changed), data[: at % len(data)], data + b"x", data[at % len(data) + 1 :]):
        with pytest.raises(records.Damaged):
            read(broken)


def test_a_file_of_another_version_of_the_format_says_so() -> None:
    data = bytearray(written(*PARTS))
    data[len(records.MAGIC) + 1] = 9
    with pytest.raises(records.Damaged, match="version 9 of the format, not 5"):
        records.Reader(io.BytesIO(bytes(data)))


def test_pieces_of_another_file_are_found() -> None:
    """Each is right in itself, but not after what is before it."""
    one, two = written(*PARTS), written(("pickled", b"abd" * 7), *PARTS[1:])
    cut = next(n for n in range(len(one)) if one[n] != two[n]) + 21
    mixed = one[:cut] + two[cut:]
    with pytest.raises(records.Damaged, match="a checksum is wrong"):
        read(mixed)


def digested(*parts: tuple[str, Any]) -> tuple[bytes, str]:
    """A file of some parts, and the digest that its writer tells."""
    sink = io.BytesIO()
    writer = records.Writer(sink.write)
    for method, argument in parts:
        getattr(writer, method)(*([] if argument is None else [argument]))
    writer.end()
    return sink.getvalue(), writer.digest


@pytest.mark.parametrize("before", [(), (PARTS[0], PARTS[1], ("restart", None))])
def test_the_digest_is_that_of_the_file(before: Any) -> None:
    data, digest = digested(*before, *PARTS)
    assert digest == plain_digest(data).hex()
    reader = records.Reader(io.BytesIO(data), digest)
    for _ in range(2):
        assert reader.header == {"name": "ä\ud800"}
        assert reader.read(24) == b"abc" * 7 + b"xyz"
        assert (next(reader), next(reader)) == (b"0123456789" * 2, b"")
        reader.end()
        reader.rewind()
    with pytest.raises(records.Damaged, match="does not end where it should"):
        reader.end()
    reader.read(24)
    with pytest.raises(records.Damaged, match="ends before everything was read"):
        reader.read(1)


def test_nothing_is_given_out_of_a_file_with_another_digest() -> None:
    """Such as one that is right in itself, but not what was saved."""
    data, digest = digested(*PARTS)
    other, _ = digested(*PARTS[:2], PARTS[4])
    for content in (
        other,
        data + b"x",
        data[:-1],
        data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    ):
        with pytest.raises(records.Damaged):
            records.Reader(io.BytesIO(content), digest)


def test_what_is_given_out_is_what_was_looked_at(tmp_path: Path) -> None:
    """Also where the file changes afterwards, and again when it is read again."""
    data, digest = digested(*PARTS)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        reader = records.Reader(file, digest)
        path.write_bytes(digested(("pickled", b"evil" * 6), PARTS[1], PARTS[4])[0])
        place = reader.place()
        assert reader.read(24) == b"abc" * 7 + b"xyz"
        next(reader)
        reader.back(place)
        with pytest.raises(records.Damaged, match="its digest is another"):
            reader.read(24)
        with pytest.raises(records.Damaged):
            reader.rewind()


def test_reading_can_go_back_also_where_what_was_read_is_let_go_of(tmp_path: Path) -> None:
    data, digest = digested(*PARTS)
    path = tmp_path / "file"
    path.write_bytes(data)
    for given in (digest, None):
        with path.open("rb") as file:
            reader = records.Reader(file, given)
            reader.read(3)
            place = reader.place()
            for _ in range(2):
                reader.back(place)
                assert reader.read(21) == (b"abc" * 7 + b"xyz")[3:]
                assert (next(reader), next(reader)) == (b"0123456789" * 2, b"")
                reader.end()


def test_a_mapped_file_is_read_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(written(*PARTS))
    with path.open("rb") as file:
        reader = records.Reader(file, mapped=True)
        assert reader.read(24) == b"abc" * 7 + b"xyz"
        buffer = next(reader)
        assert isinstance(buffer, memoryview) and buffer == b"0123456789" * 2
        buffer[0] = 0
        assert next(reader) == b""
        reader.end()
    assert path.read_bytes() == written(*PARTS), "what is written there is this process's alone"


def test_what_is_taken_back_is_not_in_the_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:

        def cut(size: int) -> None:
            file.seek(size)
            file.truncate()

        writer = records.Writer(file.write, cut=cut)
        writer.pickled(b"abc" * 7)
        place = writer.place()
        writer.pickled(bytes(3 * MIB))
        writer.buffer(memoryview(bytes(MIB)))
        writer.back(place)
        writer.buffer(memoryview(b"0123456789" * 2))
        writer.pickled(b"xyz")
        writer.buffer(memoryview(b""))
        writer.header({"name": "ä\ud800"})
        writer.end()
    data = (tmp_path / "file").read_bytes()
    assert len(data) == writer.written < MIB
    read(data)
    assert writer.digest == plain_digest(data).hex()


def test_nothing_of_a_file_that_was_changed_runs(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    ran = tmp_path / "ran"
    kernel.run(
        "import os\nclass Evil:\n"
        f"    def __reduce__(self): return os.system, ('touch {ran}',)\n"
        "first = Evil(); rest = [bytes([n]) * 3000 for n in range(200)]"
    )
    path = tmp_path / "file"
    manifest = kernel.ask(f"save({str(path)!r})")
    good = path.read_bytes()
    assert manifest["digest"] == plain_digest(good).hex()
    other = house.start()
    for at in (60, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(CellError, match="The snapshot is damaged"):
            other.ask(f"restore({str(path)!r}, {manifest['digest']!r})")
    path.write_bytes(good)
    with pytest.raises(CellError, match="its digest is another"):
        other.ask(f"restore({str(path)!r}, {'0' * 64!r})")
    assert not ran.exists()
    other.ask(f"restore({str(path)!r}, {manifest['digest']!r})")
    assert ran.exists(), "it is what the user has saved"


def test_the_file_is_private_and_there_at_once(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run("a = 1")
    file = tmp_path / "file"
    file.write_text("the one before")
    file.chmod(0o644)
    left = tmp_path / f"file.{kernel.process.pid}.part"
    left.symlink_to(tmp_path / "elsewhere")
    kernel.ask(f"save({str(file)!r})")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"], "nothing was written through the link"
    before = file.read_bytes()
    kernel.run("class Stops:\n    def __reduce__(self): raise KeyboardInterrupt\na = Stops()")
    with pytest.raises(CellError, match="KeyboardInterrupt"):
        kernel.ask(f"save({str(file)!r})")
    assert names(tmp_path) == ["file"] and file.read_bytes() == before


def test_more_than_the_limit_is_refused_and_nothing_is_left(
    house: Sessions, tmp_path: Path
) -> None:
    kernel = house.start()
    kernel.run("import numpy as np; a = np.zeros(2 * 2**20, 'u1')")
    file = tmp_path / "file"
    sentence = r"Refused: The variables take 2.* MiB; at most 1 MiB are kept here\."
    with pytest.raises(CellError, match=sentence):
        kernel.ask(f"save({str(file)!r}, limit=2**20)")
    # Where views make the size uncertain it shows only while it is written.
    kernel.run("b = a[1:]")
    sentence = r"Refused: The variables take more than 1 MiB; at most 1 MiB are kept here\."
    with pytest.raises(CellError, match=sentence):
        kernel.ask(f"save({str(file)!r}, limit=2**20)")
    assert names(tmp_path) == []
    kernel.ask(f"save({str(file)!r}, limit={2 * MIB + 64 * 1024})")
    assert file.stat().st_size < 2 * MIB + 64 * 1024, "and is there once, for both"
    kernel.run("seen = []\ntotal = [0]\ndef sink(chunk): total[0] += len(chunk)")
    with pytest.raises(CellError, match="Refused"):
        kernel.ask("write(__import__('IPython').get_ipython().user_ns['sink'], 2**20)")
    assert kernel.value("total[0]") <= MIB


def test_what_cannot_be_written_is_said(house: Sessions, tmp_path: Path) -> None:
    kernel = house.start()
    kernel.run("a = [bytes(3_000_000)]\ndef full(chunk):\n    raise OSError(28, 'No space left')")
    missing = tmp_path / "no" / "file"
    with pytest.raises(CellError, match="cannot be written: No such file or directory"):
        kernel.ask(f"save({str(missing)!r})")
    with pytest.raises(CellError, match=r"OSError.*No space left"):
        kernel.ask("write(__import__('IPython').get_ipython().user_ns['full'])")
    with pytest.raises(CellError, match="cannot be written: No space left on device"):
        kernel.run(
            "import builtins, io\n"
            "from gpu_share_kernel.snapshot import save, saving\n"
            "class Full(io.BytesIO):\n"
            "    def write(self, data): raise OSError(28, 'No space left on device')\n"
            "saving.open = lambda *a: Full()\n"
            f"save({str(tmp_path / 'file')!r})"
        )
    assert names(tmp_path) == []


def test_a_damaged_file_leaves_the_kernel_as_it_was(house: Sessions, tmp_path: Path) -> None:
    first, second = house.start(), house.start()
    first.run(
        "import os, sys, numpy as np\n"
        "words = ['w%d' % n for n in range(2000)]; array = np.arange(20_000)\n"
        "def f(): return words\n"
        "a, b = 1, {'x': words}\n"
        "os.environ['MINE'] = 'yes'; sys.path.append('/mine'); os.chdir('/')"
    )
    file = tmp_path / "file"
    first.ask(f"save({str(file)!r})")
    second.run("a = 'before'; keep = [1]\nkeep")
    second.run(
        "def state():\n"
        "    import os, sys\n"
        "    ip = get_ipython()\n"
        "    return [sorted(globals()), sorted(ip.user_ns_hidden), a, os.getcwd(), sys.path,\n"
        "            dict(os.environ), ip.execution_count, len(In), sorted(Out),\n"
        "            str(__builtins__)]\n"
        "def attempts(path, seed, times):\n"
        "    import random\n"
        "    from gpu_share_kernel import snapshot\n"
        "    data, dice = open(path, 'rb').read(), random.Random(seed)\n"
        "    said, before = [], state()\n"
        "    for n in range(times):\n"
        "        broken = bytearray(data)\n"
        "        if n % 2:\n"
        "            at = len(data) - n // 2 if n < 40 else dice.randrange(len(data))\n"
        "            broken[at % len(data)] ^= dice.randrange(1, 256)\n"
        "        else:\n"
        "            del broken[dice.randrange(len(data)):]\n"
        "        open(path + '.broken', 'wb').write(broken)\n"
        "        try:\n"
        "            snapshot.restore(path + '.broken')\n"
        "        except snapshot.Refused as error:\n"
        "            said.append(str(error))\n"
        "        assert state() == before, said[-1:]\n"
        "    return said"
    )
    said = second.value(f"attempts({str(file)!r}, 6, 200)")
    assert len(said) == 200
    assert all(text.startswith("The snapshot is damaged: ") and text[-1] == "." for text in said)
    assert len(set(said)) >= 2
    second.ask(f"restore({str(file)!r})")
    assert second.value("[a, f() is words is b['x'], __import__('os').getcwd()]") == [1, True, "/"]


def test_a_snapshot_can_be_sent_in_pieces(house: Sessions, tmp_path: Path) -> None:
    first, second = house.start(), house.start()
    first.run("import numpy as np; a = np.arange(50_000); b = [a]; pieces = []")
    first.run("def sink(chunk): pieces.append(bytes(chunk))\nsink.__module__ = 'elsewhere'")
    first.run(
        "from gpu_share_kernel import snapshot as s\n"
        "manifest = s.write(sink)\n"
        f"open({str(tmp_path / 'file')!r}, 'wb').write(b''.join(pieces))"
    )
    data = (tmp_path / "file").read_bytes()
    second.run("import tempfile, os; tempfile.tempdir = os.getcwd(); left = os.listdir()")
    half = len(data) // 2
    assert second.ask(f"receive({data[:100]!r})") == {"received": 100}
    assert second.ask(f"receive({data[:half]!r}, first=True)") == {"received": half}
    said = second.ask(f"receive({data[half:]!r}, True)")
    assert said["restored"] == 6 and second.value("b[0] is a and int(a[-1])") == 49_999
    assert second.value("__import__('os').listdir() == left")
    with pytest.raises(CellError, match=r"Refused: The snapshot is damaged: it is cut off\."):
        second.ask(f"receive({data[:half]!r}, True)")
    assert second.value("__import__('os').listdir() == left")


@pytest.mark.slow
def test_no_array_is_in_memory_twice(house: Sessions, tmp_path: Path) -> None:
    first, second = house.start(), house.start()
    size = 256 * MIB
    first.run(f"{PEAK}import numpy as np\na = np.ones({size}, 'u1'); b = {{'a': [a, a[5:]]}}\n")
    # Each of these has to be copied to be written: one at a time.
    first.run("odd = [np.ones(2 ** 25, 'u1')[::2] for _ in range(8)]")
    file = str(tmp_path / "file")
    assert first.value(f"more(lambda: s.save({file!r}))") < 0.2 * size
    assert Path(file).stat().st_size < 1.6 * size
    assert first.value("more(s.survey)") < 0.02 * size
    first.close()
    second.run(PEAK)
    assert second.value(f"more(lambda: s.restore({file!r}))") < 1.7 * size
    assert second.value("b['a'][0] is a and int(a[-1])") == 1
    # A child that is forked has its own, as of any other array.
    second.run(
        "import os\nif (child := os.fork()) == 0: a[0] = 9; os._exit(0)\nos.waitpid(child, 0)"
    )
    assert second.value("int(a[0])") == 1
