"""Files of saved variables: whose they are, who takes them over, and when they are swept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from namespaces import in_own_namespace
from waiting import PATIENCE

from jupyter_gpu_share.engines import _places
from jupyter_gpu_share.engines._places import Place, here
from jupyter_gpu_share.engines._processes import Holder, this_process
from jupyter_gpu_share.kernels import saved
from jupyter_gpu_share.kernels.saved import (
    Note,
    file_name,
    kept_folder,
    leave,
    make_folder,
    sweep,
    take_over,
)
from jupyter_gpu_share.runtime import Runtime

pytestmark = pytest.mark.usefixtures("jupyter_dirs")

ROOT = "/home/alice"
NOTE = Note("k1", "python3", "1/2", ROOT, "a.ipynb")
#: A process that never was: numbers above the system's largest are not given.
DEAD = Holder(2**30, "1")
CONTENT = b"variables"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """This process's folder."""
    return make_folder(kept_folder(tmp_path / "kept"))


def put(
    tmp_path: Path,
    *,
    process: Holder = DEAD,
    place: Place | None = None,
    note: Note | None = NOTE,
    name: str = "",
    locked: bool = True,
) -> Path:
    """What a process has saved, which is gone if it is :data:`DEAD`."""
    folder = tmp_path / "kept" / str(os.getuid()) / (name or f"{process.pid}-of-another")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    whose = {**asdict(place or here()), "pid": process.pid, "start_time": process.start_time}
    owner = folder / "owner"
    owner.write_text(json.dumps({**whose, "locked": locked}))
    kept = folder / file_name(note.kernel_id if note else "nobody's")
    kept.write_bytes(CONTENT)
    if note is not None:
        note.write(kept, DIGEST)
    for path in (owner, kept):
        path.chmod(0o600)
    return kept


def test_one_takes_it_over_and_nobody_after_it(tmp_path: Path, mine: Path) -> None:
    kept = put(tmp_path)
    assert take_over(mine, ROOT, 3600.0) == [NOTE]
    assert (mine / kept.name).read_bytes() == CONTENT
    assert Note.beside(mine / kept.name) == (NOTE, DIGEST)
    assert [path.name for path in kept.parent.iterdir()] == ["owner"]
    assert take_over(mine, ROOT, 3600.0) == []
    assert not kept.parent.exists()


def test_of_a_living_process_nothing_is_taken(tmp_path: Path, mine: Path) -> None:
    kept = put(tmp_path, process=Holder.of(os.getppid()))
    assert take_over(mine, ROOT, 3600.0) == []
    sweep(mine, 0)
    assert kept.exists()


# -- other boots, machines and containers ----------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Place:
    """This process runs outside of containers, on a machine that has an id."""
    monkeypatch.setattr(_places, "_namespace", lambda: _places._FIRST)
    monkeypatch.setattr(_places, "_machine", lambda: "an id")
    return _places.here()


def test_an_earlier_boot_of_this_machine_is_over(
    tmp_path: Path, machine: Place, mine: Path
) -> None:
    living = this_process()  # of that boot it cannot be alive
    put(tmp_path, process=living, place=replace(machine, boot="another"))
    assert take_over(mine, ROOT, 3600.0) == [NOTE]


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "another", "machine": "another"},
        {"boot": "another", "machine": ""},
        {"boot": "another", "host": "another"},
        {"boot": "another", "namespace": "1", "machine": ""},
    ],
)
def test_of_another_machine_nothing_is_taken(
    tmp_path: Path, machine: Place, mine: Path, changes: dict[str, str]
) -> None:
    """Its locks may be no more than a wish."""
    kept = put(tmp_path, place=replace(machine, **changes))
    assert take_over(mine, ROOT, 0) == []
    assert kept.exists()


def test_of_another_container_what_nobody_has_locked(
    tmp_path: Path, machine: Place, mine: Path
) -> None:
    elsewhere = replace(machine, namespace="1")
    kept = put(tmp_path, place=elsewhere)
    with (kept.parent / "owner").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert take_over(mine, ROOT, 3600.0) == []
    unlocked = put(tmp_path, place=elsewhere, name="no-locks", note=None, locked=False)
    assert take_over(mine, ROOT, 3600.0) == [NOTE]
    assert unlocked.exists(), "a file system without locks says nothing"


def test_what_a_process_has_left_may_be_taken_from_anywhere(tmp_path: Path, mine: Path) -> None:
    kept = mine / file_name(NOTE.kernel_id)
    kept.write_bytes(CONTENT)
    kept.chmod(0o600)
    NOTE.write(kept, DIGEST)
    other = kept_folder(tmp_path / "kept").with_name("of-another")
    assert take_over(other, ROOT, 3600.0) == [], "this process lives"
    leave(mine)
    assert sorted(path.name for path in mine.iterdir()) == sorted(
        [kept.name, kept.with_suffix(".json").name, "left"]
    )
    saved._owners.take(other)
    assert take_over(other, ROOT, 3600.0) == [NOTE]
    leave(other)


async def test_a_server_that_stops_in_good_order_leaves_its_folder(one_gpu: Path) -> None:
    runtime = Runtime.instance()
    own = make_folder(runtime.kept_folder)
    (own / "x.kept").write_bytes(CONTENT)
    await runtime.stop()
    assert {path.name for path in own.iterdir()} == {"x.kept", "left"}


def test_who_goes_on_after_it_has_left_is_there_again(tmp_path: Path, mine: Path) -> None:
    leave(mine)
    assert not mine.exists(), "there was nothing in it"
    make_folder(mine)
    leave(mine)
    make_folder(mine)
    assert [path.name for path in mine.iterdir()] == ["owner"]


_CONTAINER = """
import sys
from pathlib import Path
from jupyter_gpu_share.kernels.saved import *

folder = make_folder(kept_folder(Path(sys.argv[1])))
if sys.argv[2] == "keep":
    kept = folder / file_name("k1")
    kept.write_bytes(b"variables")
    kept.chmod(0o600)
    Note("k1", "python3", "1/2", "/home/alice", "a.ipynb").write(kept, "0" * 64)
print(folder, flush=True)
for line in sys.stdin:
    print([note.kernel_id for note in take_over(folder, "/home/alice", 3600.0)], flush=True)
"""


def test_of_two_containers_none_takes_what_the_other_keeps(tmp_path: Path) -> None:
    """They have one home folder and one host name; in each the other's number is nobody's."""
    base = str(tmp_path / "kept")
    with in_own_namespace(_CONTAINER, base, "look") as second:
        second.line()
        with in_own_namespace(_CONTAINER, base, "keep") as first:
            kept = Path(first.line()) / file_name("k1")
            second.tell("")
            assert second.line() == "[]"
            assert kept.exists()
        end = time.monotonic() + PATIENCE  # it is killed, but may take a moment to be gone
        told = "[]"
        while told == "[]" and time.monotonic() < end:
            second.tell("")
            told = second.line()
        assert told == "['k1']"


# -- files that are not what they should be --------------------------------------------------


def foreign(kept: Path, how: str) -> None:
    """Have it be something that no server of this user has left there for this kernel."""
    note = kept.with_suffix(".json")
    content = json.loads(note.read_text())
    if how == "empty":
        note.write_text("")
    elif how == "cut off":
        note.write_text(note.read_text()[:-20])
    elif how == "a list":
        note.write_text("[]")
    elif how == "without a seal":
        del content["seal"]
        note.write_text(json.dumps(content))
    elif how == "a seal that is no text":
        note.write_text(json.dumps({**content, "seal": 5}))
    elif how == "changed":
        note.write_text(json.dumps({**content, "path": "b.ipynb"}))
    elif how == "for other content":
        note.write_text(json.dumps({**content, "digest": "0" * 64}))
    elif how == "newer":
        note.write_text(json.dumps({**content, "format": 3}))
    elif how == "older":
        note.write_text(json.dumps(asdict(NOTE)))
    elif how == "of another kernel":
        replace(NOTE, kernel_id="k2").write(kept.with_name("k2.kept"), DIGEST)
        kept.with_name("k2.json").replace(note)
    elif how == "with another key":
        key = Path(os.environ["JUPYTER_DATA_DIR"]) / "gpu-share" / "key"
        own = key.read_bytes()
        key.write_bytes(bytes(32))
        NOTE.write(kept, DIGEST)
        key.write_bytes(own)
    elif how == "of somebody else":
        os.chown(kept, 65534, 65534)
    elif how == "with a note of somebody else":
        os.chown(note, 65534, 65534)
    elif how == "open to others":
        kept.chmod(0o660)
    elif how == "a link":
        kept.rename(kept.with_name("real"))
        kept.symlink_to("real")
    elif how == "a note that is a link":
        note.rename(note.with_name("real"))
        note.symlink_to("real")
    elif how == "a folder":
        kept.unlink()
        kept.mkdir()
    elif how == "a pipe":
        kept.unlink()
        os.mkfifo(kept, 0o600)
    else:
        raise AssertionError(how)


HOW = [
    "empty",
    "cut off",
    "a list",
    "without a seal",
    "a seal that is no text",
    "changed",
    "for other content",
    "newer",
    "older",
    "of another kernel",
    "with another key",
    "of somebody else",
    "with a note of somebody else",
    "open to others",
    "a link",
    "a note that is a link",
    "a folder",
    "a pipe",
]


@pytest.mark.parametrize("how", HOW)
def test_what_is_not_sound_is_told_once_and_left_alone(
    tmp_path: Path, mine: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    if "somebody else" in how and os.getuid() != 0:
        pytest.skip("only root can be several users")
    kept = put(tmp_path)
    foreign(kept, how)
    for _ in range(2):
        assert take_over(mine, ROOT, 3600.0) == []
    assert os.path.lexists(kept)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Saved variables are left alone"
    ]
    assert "\n" not in caplog.text.rstrip("\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")
@pytest.mark.parametrize("name", ["0", "0.x", f"{socket.gethostname()}-0a1b2c3d"])
def test_what_somebody_else_puts_into_a_common_folder_is_not_looked_at(
    tmp_path: Path, name: str
) -> None:
    """Complete, from a process that has left it, and before this user has a folder there."""
    base = tmp_path / "kept"
    kept = put(tmp_path)
    base.chmod(0o1777)
    (kept.parent / "owner").rename(kept.parent / "left")
    (base / "0").rename(base / name)
    for path in (base / name, *(base / name).rglob("*")):
        os.chown(path, 65534, 65534)
    mine = make_folder(kept_folder(base))
    assert mine.stat().st_uid == os.getuid()
    assert base / name not in mine.parents
    assert take_over(mine, ROOT, 3600.0) == []
    sweep(mine, 0)
    assert (base / name / kept.parent.name / kept.name).exists()


def test_another_folder_of_notebooks_is_left_alone(tmp_path: Path, mine: Path) -> None:
    kept = put(tmp_path)
    assert take_over(mine, "/home/bob", 3600.0) == []
    sweep(mine, 60)
    assert kept.exists()


def test_what_an_earlier_version_has_saved_is_told(
    tmp_path: Path, mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = tmp_path / "kept" / f"{socket.gethostname()}-0a1b2c3d" / "77-1"
    older.mkdir(parents=True)
    (older / "x.kept").write_bytes(CONTENT)
    for _ in range(2):
        assert take_over(mine, ROOT, 3600.0) == []
    assert (older / "x.kept").exists()
    (record,) = caplog.records
    assert str(older.parent) in record.getMessage()


def test_what_is_too_old_or_nobodys_is_swept(tmp_path: Path, mine: Path) -> None:
    old, new = put(tmp_path), put(tmp_path, note=Note("k2", "python3", "1", ROOT, None))
    orphan = put(tmp_path, note=None)
    partial = new.with_name("k4.part")
    partial.write_bytes(b"half")
    os.utime(old, (time.time() - 100,) * 2)
    sweep(mine, 60)
    word = old.with_suffix(".lost").name
    left = {new.name, new.with_suffix(".json").name, word, "owner"}
    assert {path.name for path in new.parent.iterdir()} == left
    assert not orphan.exists()
    os.utime(new, (time.time() - 100,) * 2)
    sweep(mine, 60)
    assert {path.name for path in new.parent.iterdir()} == {word, "owner"}
    os.utime(new.with_name(word), (time.time() - 8 * 86400,) * 2)
    sweep(mine, 60)
    assert not new.parent.exists()
    assert mine.exists()


def test_of_two_at_once_one_gets_it(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = put(tmp_path)
    write = Note.write

    def slow(self: Note, path: Path, digest: str) -> None:
        write(self, path, digest)
        kept.unlink()  # the other one had it just before

    monkeypatch.setattr(Note, "write", slow)
    assert take_over(mine, ROOT, 3600.0) == []
    assert [path.name for path in mine.iterdir()] == ["owner"]
