"""A user's own folder in one that others use too, files in it, and the key of a user's servers."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.kernels import _private
from jupyter_gpu_share.kernels._private import (
    UnsafeFileError,
    common_folder,
    folders,
    new_file,
    open_file,
    user_key,
)

ANN, BOB = 65501, 65502


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that all users may write; pytest's own may only be entered by their user."""
    own = Path(tempfile.mkdtemp(prefix="gpu-share-common-"))
    own.chmod(0o1777)
    yield own
    shutil.rmtree(own)


def as_user(number: int, work: Callable[[], object]) -> str:
    """What it answers in a process of another user."""
    if os.getuid() != 0:
        pytest.skip("only root can be several users")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


# -- folders ---------------------------------------------------------------------------------


def test_users_of_one_folder_have_each_their_own(common: Path) -> None:
    for user in (ANN, BOB, ANN):
        assert as_user(user, lambda: common_folder(common)) == str(common / str(user))
    for user in (ANN, BOB):
        assert (mode(common / str(user)), (common / str(user)).stat().st_uid) == (0o700, user)
    assert "PermissionError" in as_user(ANN, lambda: list((common / str(BOB)).iterdir()))


def test_nobody_keeps_others_from_having_one(common: Path) -> None:
    as_user(BOB, lambda: (common / str(ANN)).mkdir())
    first = as_user(ANN, lambda: common_folder(common))
    assert first.startswith(f"{common}/{ANN}.")
    assert as_user(ANN, lambda: common_folder(common)) == first
    assert as_user(ANN, lambda: list(map(str, folders(common)))) == f"['{first}']"


def test_a_folder_of_somebody_else_is_never_looked_into(common: Path) -> None:
    as_user(BOB, lambda: (common / str(ANN)).mkdir(0o777))
    as_user(BOB, lambda: (common / f"{ANN}.x").symlink_to(common))
    assert as_user(ANN, lambda: list(folders(common))) == "[]"


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / str(os.getuid())).symlink_to("elsewhere")
    with pytest.raises(UnsafeFileError, match="is a link or no folder"):
        common_folder(tmp_path)
    with pytest.raises(UnsafeFileError, match="is a link or no folder"):
        list(folders(tmp_path))


def test_one_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    own = common_folder(tmp_path)
    own.chmod(0o750)
    with pytest.raises(UnsafeFileError, match=r"is open to others \(mode 750\)"):
        common_folder(tmp_path)


@pytest.mark.parametrize(("rights", "safe"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_where_others_could_replace_it_there_is_none(
    tmp_path: Path, rights: int, safe: bool
) -> None:
    tmp_path.chmod(rights)
    if safe:
        assert common_folder(tmp_path).exists()
        return
    with pytest.raises(UnsafeFileError, match=r"set its sticky bit \(chmod \+t"):
        common_folder(tmp_path)


def test_a_group_that_could_replace_it(common: Path) -> None:
    common.chmod(0o775)
    os.chown(common, 0, ANN)
    assert "sticky bit" in as_user(ANN, lambda: common_folder(common))
    common.chmod(0o1775)
    assert as_user(ANN, lambda: common_folder(common)) == str(common / str(ANN))


def test_it_is_private_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        own = common_folder(tmp_path / "new" / "base")
    finally:
        os.umask(before)
    assert (mode(own), mode(own.parent)) == (0o700, 0o700)


# -- files -----------------------------------------------------------------------------------


def test_a_new_file_takes_the_place_of_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "file").symlink_to(target)
    with new_file(tmp_path / "file") as file:
        file.write(b"own")
    assert target.read_text() == "precious"
    assert mode(tmp_path / "file") == 0o600
    with open_file(tmp_path / "file") as file:
        assert file.read() == b"own"


def test_what_is_no_file_of_ones_own_is_not_opened(tmp_path: Path) -> None:
    good = tmp_path / "good"
    new_file(good).close()
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    new_file(tmp_path / "open").close()
    (tmp_path / "open").chmod(0o604)
    for name, why in {
        "link": "is a link; it is not followed",
        "pipe": "is not a plain file",
        "folder": "is not a plain file",
        "open": "is open to others",
    }.items():
        with pytest.raises(UnsafeFileError, match=why):
            open_file(tmp_path / name)
    if os.getuid() == 0:
        os.chown(good, BOB, BOB)
        with pytest.raises(UnsafeFileError, match="belongs to somebody else"):
            open_file(good)


# -- the key ---------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_make_the_key_at_once_all_have_the_same(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def link(*args: object) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(os, "link", link)
    number = 8
    with ThreadPoolExecutor(number) as threads:
        for turn in range(10):
            folder, line = tmp_path / str(turn) / "gpu-share", Barrier(number)

            def make(folder: Path = folder, line: Barrier = line) -> bytes:
                line.wait(PATIENCE)
                return user_key(folder)

            made = [threads.submit(make) for _ in range(number)]
            (key,) = {each.result(PATIENCE) for each in made}
            assert len(key) == 32
            assert {path.name for path in folder.iterdir()} <= {"key", ".key-lock"}
            assert mode(folder / "key") == 0o600


def test_each_user_has_another(tmp_path: Path) -> None:
    assert user_key(tmp_path / "a") != user_key(tmp_path / "b")
    assert user_key(tmp_path / "a") == user_key(tmp_path / "a")


def test_a_key_that_others_may_know_is_refused(tmp_path: Path) -> None:
    user_key(tmp_path)
    key = tmp_path / "key"
    key.chmod(0o640)
    with pytest.raises(UnsafeFileError, match=r"cannot be trusted: .* is open to others"):
        user_key(tmp_path)
    key.chmod(0o600)
    key.write_bytes(key.read_bytes()[:-1])
    with pytest.raises(UnsafeFileError, match="is damaged"):
        user_key(tmp_path)
    key.unlink()
    key.symlink_to("another")
    with pytest.raises(UnsafeFileError, match="is a link"):
        user_key(tmp_path)


def test_a_folder_that_is_taken_by_its_own_user_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers of one user begin at once."""
    own = common_folder(tmp_path)
    monkeypatch.setattr(_private, "folders", lambda base: iter(()))
    assert common_folder(tmp_path) == own
