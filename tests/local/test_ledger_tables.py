"""The ledger's tables are read again after each write of anybody, and only then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jupyter_gpu_share.engines._processes import boot_id, this_boot, this_process
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._ledger_file import connect
from jupyter_gpu_share.engines.local._tables import TablesReader
from jupyter_gpu_share.size import Size

ONE = (Gpu("G0", "A100", 0, 80 * 2**30),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger.db"
    with closing(Ledger(found)) as ledger:
        ledger.set_gpus(ONE)
    return found


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, 10.0)) as found:
        yield found


def claim(path: Path, kernel: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.set_gpus(ONE)
        ledger.claim(kernel, Size.parse("1/4"), this_process(), {})


def kernels(reader: TablesReader) -> list[str]:
    return [row["kernel_id"] for row in reader.read().rows]


def test_what_nobody_wrote_to_is_not_read_again(db: sqlite3.Connection) -> None:
    reader = TablesReader(db)
    assert reader.read() is reader.read()


def test_what_another_wrote_is_seen(db: sqlite3.Connection, path: Path) -> None:
    reader = TablesReader(db)
    assert kernels(reader) == []
    claim(path, "k1")
    assert kernels(reader) == ["k1"]


def test_what_was_written_here_is_seen(db: sqlite3.Connection, path: Path) -> None:
    claim(path, "k1")
    reader = TablesReader(db)
    reader.read()
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM claims")
    assert kernels(reader) == []
    db.execute("COMMIT")
    assert kernels(reader) == []


def test_a_claim_that_failed_leaves_nothing_in_mind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.set_gpus(ONE)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "_note_own", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ledger.claim("k1", Size.parse("1/4"), this_process(), {})
        assert ledger.claims() == []


@pytest.mark.parametrize(
    ("name", "synchronous"),
    [
        ("ledger.db", 2),
        (f"{this_boot()}/ledger.db", 0),
        (f"shares-{boot_id()}.db", 0),  # as the broker's is called
    ],
)
def test_only_a_file_for_all_boots_is_written_through(
    tmp_path: Path, name: str, synchronous: int
) -> None:
    with closing(connect(tmp_path / name, 10.0)) as found:
        assert found.execute("PRAGMA synchronous").fetchone()[0] == synchronous
