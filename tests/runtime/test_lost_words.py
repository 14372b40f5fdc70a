"""What is lost of a notebook is said by its next kernel: which words are its own, and how long."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.idle import IdlePolicy
from jupyter_gpu_share.kernels import saved
from jupyter_gpu_share.kernels._checkpoint import Keeper
from jupyter_gpu_share.kernels._lost import Lost, not_kept
from jupyter_gpu_share.kernels._private import seal
from jupyter_gpu_share.kernels.saved import (
    Note,
    file_name,
    kept_folder,
    losses_of,
    make_folder,
    not_taken,
    sweep,
    take_over,
    was_told,
)
from jupyter_gpu_share.relay import Activity

pytestmark = pytest.mark.usefixtures("jupyter_dirs")

ROOT, PATH, WEEK = "/home/alice", "a.ipynb", 7 * 86400.0
NOTE = Note("k1", "python3", "1/2", ROOT, PATH)
CONTENT = b"variables"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WORD = Lost(ROOT, PATH, "It is lost.")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """This process's folder."""
    return make_folder(kept_folder(tmp_path / "kept"))


@pytest.fixture
def dead(mine: Path) -> Path:
    """The folder of a process that never was: such numbers are not given."""
    folder = mine.with_name("of-a-dead-one")
    folder.mkdir(mode=0o700)
    owner = {**asdict(here()), **asdict(Holder(2**30, "1")), "locked": True}
    private(folder / "owner", json.dumps(owner).encode())
    return folder


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def keep(folder: Path, note: Note = NOTE) -> Path:
    kept = private(folder / file_name(note.kernel_id), CONTENT)
    note.write(kept, DIGEST)
    return kept


def lines(folder: Path, path: str = PATH, root: str = ROOT, lifetime: float = WEEK) -> list[str]:
    """What a new kernel of that notebook says."""
    found = losses_of(folder, root, path, lifetime)
    for told, _ in found:
        was_told(told)
    return [line for _, line in found]


def test_its_own_notebook_says_it_once(mine: Path, dead: Path) -> None:
    WORD.write(dead / "x.kept")
    assert (dead / "x.lost").stat().st_mode & 0o777 == 0o600
    assert lines(mine, "b.ipynb") == lines(mine, root="/home/bob") == []
    assert lines(mine) == ["It is lost."]
    assert lines(mine) == []
    assert not (dead / "x.lost").exists()


def test_of_a_process_that_lives_nothing_is_lost(mine: Path) -> None:
    WORD.write(mine / "x.kept")
    assert lines(mine) == lines(mine.with_name("of-another")) == []


@pytest.mark.parametrize("how", ["changed", "unsealed", "open", "a link", "newer", "nonsense"])
def test_what_nobody_of_ours_has_written_is_not_said(mine: Path, dead: Path, how: str) -> None:
    WORD.write(dead / "x.kept")
    word = dead / "x.lost"
    content = json.loads(word.read_text())
    if how == "changed":
        private(word, json.dumps({**content, "line": "Visit evil.example."}).encode())
    elif how == "unsealed":
        private(word, json.dumps({**content, "seal": None}).encode())
    elif how == "open":
        word.chmod(0o644)
    elif how == "a link":
        word.rename(dead / "real")
        word.symlink_to("real")
    elif how == "newer":
        del content["seal"]
        content["format"] = 2
        content["seal"] = seal(b"jupyter-gpu-share: whose variables are lost\0", content)
        private(word, json.dumps(content).encode())
    else:
        private(word, b"[]")
    assert lines(mine) == []


def test_a_word_waits_as_long_as_what_is_saved_and_a_week_at_least(mine: Path, dead: Path) -> None:
    WORD.write(dead / "x.kept")
    word = dead / "x.lost"
    for age, lifetime, stays in [(6, 0, True), (8, 9, True), (8, 0, False)]:
        os.utime(word, (time.time() - age * 86400,) * 2)
        sweep(mine, lifetime * 86400.0)
        assert word.exists() is stays
    assert not dead.exists(), "nothing else was in it"


@pytest.mark.parametrize("sound", [True, False])
def test_what_waited_too_long_leaves_a_word(mine: Path, dead: Path, sound: bool) -> None:
    kept = keep(dead)
    if not sound:
        kept.chmod(0o644)
    os.utime(kept, (time.time() - 100,) * 2)
    assert take_over(mine, ROOT, 60.0) == []
    assert not kept.exists()
    (line,) = lines(mine)
    assert "are removed: no server took them over within 1 min" in line


def test_what_cannot_be_trusted_is_named_where_its_notebook_is_certain(
    mine: Path, dead: Path
) -> None:
    kept = keep(dead)
    kept.chmod(0o644)
    (line,) = lines(mine)
    assert str(kept) in line and "open to others" in line
    assert lines(mine) == []
    assert kept.exists()


@pytest.mark.parametrize("sealed", [True, False])
def test_of_another_version_only_a_seal_says_whose_it_is(
    mine: Path, dead: Path, sealed: bool
) -> None:
    kept = keep(dead)
    content = json.loads(kept.with_suffix(".json").read_text())
    told = content.pop("seal")
    content["format"] = 3
    content["seal"] = seal(saved._PURPOSE, content) if sealed else told
    private(kept.with_suffix(".json"), json.dumps(content).encode())
    assert ["version 3" in line for line in lines(mine)] == [True] * sealed


def test_what_nobody_has_taken_yet_waits_for_the_next_server(mine: Path, dead: Path) -> None:
    """Its server has ended after this one began."""
    keep(dead)
    assert ["takes it over" in line for line in lines(mine)] == [True]
    assert lines(mine) == []
    assert take_over(mine, ROOT, WEEK) == [NOTE]


def test_what_is_taken_over_is_not_lost(mine: Path, dead: Path) -> None:
    WORD.write(keep(dead))
    assert take_over(mine, ROOT, WEEK) == [NOTE]
    assert lines(mine) == []


def test_a_disk_that_is_full_is_told(
    mine: Path, dead: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep(dead)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Note, "write", full)
    assert take_over(mine, ROOT, WEEK) == []
    assert kept.exists()
    assert "No space left on device" in caplog.text


def test_a_kernel_that_could_not_be_begun_is_told_where_its_variables_still_are(
    mine: Path, dead: Path
) -> None:
    keep(dead)
    other = replace(NOTE, kernel_id="k2", path="b.ipynb")
    keep(dead, other)
    assert len(take_over(mine, ROOT, WEEK)) == 2
    for note in (NOTE, other):
        not_taken(mine, note.kernel_id, "1/4 is the limit here.")
    saved.forget(mine / file_name(other.kernel_id))
    assert lines(mine, "b.ipynb") == []
    (line,) = lines(mine)
    assert "1/4 is the limit here." in line and file_name("k1") in line
    assert lines(mine) == []


def test_what_ends_for_good_leaves_no_word(mine: Path, dead: Path) -> None:
    kept = keep(dead)
    Lost(ROOT, PATH, not_kept()).write(kept)
    saved.forget(kept)
    assert [path.name for path in dead.iterdir()] == ["owner"]


class Questions:
    """A kernel that is told lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def ask(self, what: str, *, line: str) -> None:
        assert what == "say"
        self.lines.append(line)


def keeper_of(mine: Path, *lost: str) -> tuple[Keeper, Questions]:
    relay: Any = SimpleNamespace(activity=Activity(cells_sent=3, cells_done=3))
    left = list(lost)

    async def losses(path: str) -> list[str]:
        """What the engine knows of the notebook; it tells it once."""
        told = list(left) if path == PATH else []
        del left[: len(told)]
        return told

    engine: Any = SimpleNamespace(ends_with_server=True, losses=losses)
    keeper, asked = Keeper(relay, engine, "k1", folder=mine, policy=IdlePolicy()), Questions()
    keeper._kernel = cast("Any", asked)
    return keeper, asked


async def test_what_the_engine_knows_is_said_until_a_cell_has_shown_it(mine: Path) -> None:
    keeper, asked = keeper_of(mine, "Its server was stopped.")
    await keeper.say_losses(replace(NOTE, path="other.ipynb"))
    await keeper.say_losses(None)
    assert asked.lines == []
    await keeper.say_losses(NOTE)
    await keeper.say_losses(NOTE)  # it was started again; the engine tells it once
    assert asked.lines == ["Its server was stopped."] * 2
    assert keeper.owes_words
    keeper.have_said(Activity(cells_sent=4, cells_done=4))
    assert not keeper.owes_words


async def test_a_word_stays_until_a_cell_has_shown_it(mine: Path, dead: Path) -> None:
    """Who opens a notebook, and runs no cell, has not read it."""
    WORD.write(dead / "x.kept")
    keeper, asked = keeper_of(mine)
    await keeper.say_losses(NOTE)
    assert asked.lines == ["It is lost."]
    assert keeper.owes_words
    assert keeper.have_said(Activity(cells_sent=4, pending_cells=1, cells_done=3)) == []
    await keeper.say_losses(NOTE)  # it was started again
    assert asked.lines == ["It is lost."] * 2
    ran = Activity(cells_sent=4, cells_done=4)
    assert keeper.have_said(ran) == [dead / "x.lost"]
    assert keeper.have_said(ran) == []
    assert not keeper.owes_words


@pytest.mark.parametrize("path", [PATH, None])
async def test_what_is_owed_is_said_by_every_process_until_a_cell_ran(
    path: str | None, mine: Path
) -> None:
    keeper, asked = keeper_of(mine)
    keeper.owe("It could not be saved.")
    # What waited for the process that ended was answered by nobody but us.
    assert keeper.have_said(Activity(cells_sent=3, cells_done=3)) == []
    assert keeper.owes_words
    for times in (1, 2):
        await keeper.say_losses(replace(NOTE, path=path))
        assert asked.lines == ["It could not be saved."] * times
    assert keeper.owes_words
    assert keeper.have_said(Activity(cells_sent=4, cells_done=4)) == []
    assert not keeper.owes_words
    await keeper.say_losses(NOTE)
    assert len(asked.lines) == 2


async def test_a_notebook_that_is_renamed_keeps_its_word_as_it_is(mine: Path) -> None:
    keeper, _ = keeper_of(mine)
    await keeper.note_loss(NOTE, "Held since nine.")
    await keeper.renote(replace(NOTE, path="b.ipynb"))
    word = mine / file_name("k1").replace(".kept", ".lost")
    assert Lost.read(word) == Lost(ROOT, "b.ipynb", "Held since nine.")
    word.unlink()
    await keeper.renote(NOTE)
    assert not word.exists()
