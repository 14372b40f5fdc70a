"""Chosen sizes follow their notebooks, and outlive the process where they can be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyter_gpu_share.size import SizeChoices

ROOT = "/home/ada"


@pytest.fixture
def choices(tmp_path: Path) -> SizeChoices:
    found = SizeChoices(tmp_path / "sizes")
    for path, size in (("a.ipynb", "1"), ("lab/b.ipynb", "1/2"), ("labels.ipynb", "1/4")):
        found.set(ROOT, path, size)
    return found


def sizes(choices: SizeChoices, *paths: str) -> list[str | None]:
    return [choices.get(ROOT, path) for path in paths]


def test_a_choice_is_of_one_path_below_one_folder(choices: SizeChoices) -> None:
    assert sizes(choices, "a.ipynb", "b.ipynb") == ["1", None]
    assert choices.get("/home/bob", "a.ipynb") is None
    choices.set(ROOT, "a.ipynb", None)
    assert sizes(choices, "a.ipynb", "lab/b.ipynb") == [None, "1/2"]


def test_the_next_server_knows_it(choices: SizeChoices, tmp_path: Path) -> None:
    later = SizeChoices(tmp_path / "sizes")
    assert sizes(later, "a.ipynb", "lab/b.ipynb") == ["1", "1/2"]
    # What another server of the folder has written is not lost.
    later.set(ROOT, "c.ipynb", "1/8")
    choices.set(ROOT, "d.ipynb", "1/3")
    assert sizes(later, "a.ipynb", "c.ipynb", "d.ipynb") == ["1", "1/8", "1/3"]


def test_what_is_renamed_takes_its_choice_along(choices: SizeChoices) -> None:
    choices.moved(ROOT, "a.ipynb", "train.ipynb")
    assert sizes(choices, "a.ipynb", "train.ipynb") == [None, "1"]
    choices.moved(ROOT, "lab", "old/lab")
    assert sizes(choices, "lab/b.ipynb", "old/lab/b.ipynb") == [None, "1/2"]
    # A name that only begins like the folder's is another.
    assert sizes(choices, "labels.ipynb") == ["1/4"]


def test_what_is_moved_over_another_takes_its_place(choices: SizeChoices) -> None:
    choices.set(ROOT, "new.ipynb", "1/8")
    choices.moved(ROOT, "plain.ipynb", "new.ipynb")
    assert sizes(choices, "new.ipynb") == [None]


def test_a_copy_starts_as_the_original(choices: SizeChoices) -> None:
    choices.copied(ROOT, "a.ipynb", "a-Copy1.ipynb")
    assert sizes(choices, "a.ipynb", "a-Copy1.ipynb") == ["1", "1"]


def test_what_is_made_anew_under_a_deleted_path_has_no_choice(choices: SizeChoices) -> None:
    choices.deleted(ROOT, "lab")
    assert sizes(choices, "lab/b.ipynb", "labels.ipynb") == [None, "1/4"]


def test_the_oldest_gives_way(tmp_path: Path) -> None:
    few = SizeChoices(tmp_path, limit=2)
    for path in ("a", "b", "a", "c"):
        few.set(ROOT, path, "1/4")
    assert sizes(few, "a", "b", "c") == ["1/4", None, "1/4"]


def test_where_nothing_can_be_written_a_choice_lasts_as_long_as_the_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    found = SizeChoices(tmp_path / "file" / "sizes")
    found.set(ROOT, "a.ipynb", "1")
    found.moved(ROOT, "a.ipynb", "b.ipynb")
    assert sizes(found, "a.ipynb", "b.ipynb") == [None, "1"]


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a.ipynb": 5}', "[" * 100_000])
def test_a_broken_file_is_no_choice_and_is_written_anew(
    choices: SizeChoices, tmp_path: Path, content: str
) -> None:
    (file,) = (tmp_path / "sizes").iterdir()
    file.write_text(content)
    assert sizes(choices, "a.ipynb") == [None]
    choices.set(ROOT, "a.ipynb", "1")
    assert json.loads(file.read_text()) == {"a.ipynb": "1"}
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_only_its_user_can_read_it(choices: SizeChoices, tmp_path: Path) -> None:
    (file,) = (tmp_path / "sizes").iterdir()
    assert file.stat().st_mode & 0o077 == 0
