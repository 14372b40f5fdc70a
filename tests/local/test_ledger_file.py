"""The ledger's file: made by many at once, removed under a server, and unusable in every way."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from mounts import in_own_mounts
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Claim, Ledger
from jupyter_gpu_share.errors import LedgerError
from jupyter_gpu_share.size import Size

GIB = 2**30
ONE = (Gpu("G0", "A100", 0, 80 * GIB),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    own = Ledger(path)
    own.set_gpus(ONE)
    yield own
    own.close()


def ask(ledger: Ledger, kernel: str, size: str) -> Claim:
    return ledger.claim(kernel, Size.parse(size), this_process(), {"path": kernel})


def make_older(raw: sqlite3.Connection, version: int) -> None:
    """Take back what later versions have added."""
    raw.execute(f"PRAGMA user_version = {version}")
    if version == 3:
        raw.execute("ALTER TABLE views DROP COLUMN others")
        return
    columns = ["namespace", "host", "machine", "viewer"] + ["only"] * (version < 2)
    for column in columns:
        raw.execute(f"ALTER TABLE claims DROP COLUMN {column}")
    raw.execute("DROP TABLE views")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_can_read_it(ledger: Ledger, path: Path) -> None:
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    assert [file.name for file in path.parent.glob(".*")] == []


def test_a_group_shares_it_where_the_group_may_write_the_folder(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o2770)
    before = os.umask(0o077)
    try:
        own = Ledger(path)
        own.set_gpus(ONE)
        own.close()
    finally:
        os.umask(before)
    assert {file.name: mode(file) for file in path.parent.iterdir()} == {
        "ledger.db": 0o660,
        "ledger.db-journal": 0o660,
    }


def test_many_may_make_it_at_once(tmp_path: Path) -> None:
    number = 8
    with ThreadPoolExecutor(number) as threads:
        for turn in range(20):
            path, line = tmp_path / str(turn) / "ledger.db", Barrier(number)

            def make(path: Path = path, line: Barrier = line) -> None:
                line.wait(PATIENCE)
                own = Ledger(path)
                own.set_gpus(ONE)
                own.close()

            for made in [threads.submit(make) for _ in range(number)]:
                made.result(PATIENCE)


def test_a_server_follows_when_the_file_is_replaced(ledger: Ledger, path: Path) -> None:
    """As the error about a damaged file tells the user to do while servers run."""
    ask(ledger, "a", "3/4")
    path.unlink()
    other = Ledger(path)
    other.set_gpus(ONE)
    ask(other, "b", "1/2")
    assert ledger.used() == {"G0": 40 * GIB}
    assert ask(ledger, "c", "3/4").position == 1
    other.close()


def test_a_server_makes_the_file_again(ledger: Ledger, path: Path) -> None:
    ask(ledger, "a", "3/4")
    path.write_bytes(b"no database at all, for certain" * 200)
    with pytest.raises(LedgerError, match="is damaged; end all kernels"):
        ask(ledger, "b", "3/4")
    path.unlink()
    assert not ask(ledger, "b", "3/4").held, "what a kernel of this server holds, it holds on"
    ledger.release("a")
    assert ledger.turn("b").held, "with the GPUs that the server knows"


# -- files that cannot be used ---------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"no database at all, for certain" * 200, None])
def test_a_damaged_file(path: Path, damage: bytes | None) -> None:
    own = Ledger(path)
    own.set_gpus(ONE)
    for number in range(200):
        ask(own, str(number), "1/400")
    own.close()
    content = path.read_bytes()
    path.write_bytes(damage or content[: len(content) // 2])
    with pytest.raises(LedgerError, match="is damaged; end all kernels") as caught:
        Ledger(path)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["size = 'garbage'", "info = '{'", "info = '[1]'"])
def test_damage_that_sqlite_cannot_see(ledger: Ledger, path: Path, change: str) -> None:
    ask(ledger, "a", "3/4")
    raw = sqlite3.connect(path)
    with raw:
        raw.execute(f"UPDATE claims SET {change}")
    raw.close()
    with pytest.raises(LedgerError, match="is damaged; end all kernels"):
        ledger.claims()


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_an_earlier_version_goes_on(ledger: Ledger, path: Path, version: int) -> None:
    held = ask(ledger, "a", "3/4")
    ledger.close()
    raw = sqlite3.connect(path, isolation_level=None)
    make_older(raw, version)
    raw.close()
    again = Ledger(path)
    again.set_gpus(ONE)
    again.set_others({"G0": 2 * 2**30})
    assert again.claims()[0].token == held.token
    assert not ask(again, "b", "1/2").held
    again.close()


def test_a_file_without_places_goes_on(ledger: Ledger, path: Path) -> None:
    """What its claims do not say is found out, or told as unknown."""
    living, gone = ask(ledger, "a", "1/4"), ask(ledger, "b", "1/4")
    ledger.close()
    raw = sqlite3.connect(path, isolation_level=None)
    make_older(raw, 2)
    raw.execute("UPDATE claims SET pid = ? WHERE token = ?", (2**30, gone.token))
    raw.close()
    again = Ledger(path)
    again.set_gpus(ONE)
    assert ask(again, "c", "1/2").held
    assert {claim.token: claim.unknown for claim in again.claims()[:2]} == {
        living.token: False,
        gone.token: True,
    }
    again.close()
    raw = sqlite3.connect(path)
    rows = raw.execute("SELECT kernel_id FROM claims WHERE namespace != ''").fetchall()
    raw.close()
    assert sorted(rows) == [("a",), ("c",)], "once it was found alive, its end will be seen"


def test_a_newer_file(path: Path) -> None:
    Ledger(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(LedgerError, match="newer"):
        Ledger(path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.db")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "anything")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(LedgerError, match="is not a plain file; remove it"):
            Ledger(tmp_path / name)
    assert not (tmp_path / "anything").exists()


def test_a_file_that_somebody_keeps_locked(ledger: Ledger, path: Path) -> None:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="held by another program"):
        Ledger(path, timeout=0.05)
    raw.execute("ROLLBACK")
    raw.close()


_MOUNTED = """
    import subprocess, sys
    from pathlib import Path
    from jupyter_gpu_share.engines.local._gpu import Gpu
    from jupyter_gpu_share.engines.local._ledger import Ledger
    from jupyter_gpu_share.engines._processes import this_process
    from jupyter_gpu_share.errors import LedgerError
    from jupyter_gpu_share.size import Size

    folder = Path(sys.argv[1])

    def mount(*options):
        subprocess.run(["mount", *options, str(folder)], check=True)

    def claim(ledger, name):
        ledger.claim(name, Size.parse("1/1000000"), this_process(), {"path": "x" * 2000})
"""


def test_a_read_only_disk(tmp_path: Path) -> None:
    said = in_own_mounts(
        _MOUNTED
        + """
    mount("-t", "tmpfs", "tmpfs")
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus([Gpu("G0", "A100", 0, 10**12)])
    ledger.close()
    mount("-o", "remount,ro")
    for path in (folder / "ledger.db", folder / "new" / "ledger.db"):
        try:
            claim(Ledger(path), "a")
        except LedgerError as error:
            print(error)
    mount("-o", "remount,rw")
    claim(Ledger(folder / "ledger.db"), "a")
    print("writable again")
    """,
        tmp_path,
    )
    lines = said.splitlines()
    assert len(lines) == 3, said
    assert all("cannot be written; give this user the right" in line for line in lines[:2]), said
    assert lines[2] == "writable again"


def test_a_full_disk(tmp_path: Path) -> None:
    said = in_own_mounts(
        _MOUNTED
        + """
    mount("-t", "tmpfs", "-o", "size=128k", "tmpfs")
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus([Gpu("G0", "A100", 0, 10**12)])
    number = 0
    try:
        for number in range(1000):
            claim(ledger, str(number))
    except LedgerError as error:
        print(error)
    before = len(ledger.claims())
    assert before == number, "the refused claim left nothing"
    mount("-o", "remount,size=1m")
    for name in range(number):
        ledger.release(str(name))
    claim(ledger, "again")
    print("room again")
    """,
        tmp_path,
    )
    lines = said.splitlines()
    assert "is full; make room there" in lines[0], said
    assert lines[1] == "room again"
