"""Files of saved variables: whose they are, who takes them over, and when they are swept."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from jupyter_gpu_share.engines._processes import Holder, this_boot, this_process
from jupyter_gpu_share.kernels.saved import Note, kept_folder, make_folder, sweep, take_over

ROOT = "/home/alice"
NOTE = Note("k1", "python3", "1/2", ROOT, "a.ipynb")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """This process's folder."""
    folder = kept_folder(tmp_path)
    make_folder(folder)
    return folder


def leave(
    tmp_path: Path, *, boot: str = "", process: str = Holder(2**30, "1").folder, note: Note = NOTE
) -> Path:
    """What a process that is gone has left."""
    folder = tmp_path / (boot or this_boot()) / process
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{note.kernel_id}.kept"
    note.write(kept)
    kept.write_bytes(b"variables")
    return kept


def test_one_takes_it_over_and_nobody_after_it(tmp_path: Path, mine: Path) -> None:
    kept = leave(tmp_path)
    assert take_over(mine, ROOT, 3600.0) == [NOTE]
    assert (mine / kept.name).read_bytes() == b"variables"
    assert Note.beside(mine / kept.name) == NOTE
    assert list(kept.parent.iterdir()) == []
    assert take_over(mine, ROOT, 3600.0) == []


def test_an_earlier_boot_of_this_machine_counts_and_another_machine_does_not(
    tmp_path: Path, mine: Path
) -> None:
    host = this_boot().rpartition("-")[0]
    living = this_process().folder  # of that boot it cannot be alive
    leave(tmp_path, boot=f"{host}-00000000", process=living)
    elsewhere = leave(tmp_path, boot="another-00000000")
    assert take_over(mine, ROOT, 3600.0) == [NOTE]
    assert elsewhere.exists()


def test_of_a_living_process_nothing_is_taken(tmp_path: Path, mine: Path) -> None:
    parent = this_process().of(os.getppid()).folder
    kept = leave(tmp_path, process=parent)
    assert take_over(mine, ROOT, 3600.0) == []
    sweep(mine, 0)
    assert kept.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"kernel_id": "k1"}',
        json.dumps({**NOTE.__dict__, "size": "3/2"}),
        json.dumps({**NOTE.__dict__, "kernel_id": 5}),
        json.dumps({**NOTE.__dict__, "path": 5}),
        json.dumps({**NOTE.__dict__, "more": 5}),
    ],
)
def test_an_unsound_note_is_no_note(tmp_path: Path, mine: Path, text: str) -> None:
    kept = leave(tmp_path)
    kept.with_suffix(".json").write_text(text)
    assert take_over(mine, ROOT, 3600.0) == []
    sweep(mine, 1e9)
    assert not kept.exists()


def test_another_folder_of_notebooks_is_left_alone(tmp_path: Path, mine: Path) -> None:
    kept = leave(tmp_path)
    assert take_over(mine, "/home/bob", 3600.0) == []
    sweep(mine, 60)
    assert kept.exists()


def test_what_is_too_old_or_nobodys_is_swept(tmp_path: Path, mine: Path) -> None:
    old, new = leave(tmp_path), leave(tmp_path, note=Note("k2", "python3", "1", ROOT, None))
    orphan = new.with_name("k3.kept")
    orphan.write_bytes(b"of nbclient")
    partial = new.with_name("k4.part")
    partial.write_bytes(b"half")
    os.utime(old, (time.time() - 100,) * 2)
    sweep(mine, 60)
    assert sorted(path.name for path in new.parent.iterdir()) == ["k2.json", "k2.kept"]
    os.utime(new, (time.time() - 100,) * 2)
    sweep(mine, 60)
    assert not new.parent.exists()
    assert mine.exists()


def test_of_two_at_once_one_gets_it(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = leave(tmp_path)
    write = Note.write

    def slow(self: Note, path: Path) -> None:
        write(self, path)
        kept.unlink()  # the other one had it just before

    monkeypatch.setattr(Note, "write", slow)
    assert take_over(mine, ROOT, 3600.0) == []
    assert list(mine.iterdir()) == []
