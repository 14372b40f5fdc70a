"""The ledger's file: how it is made and opened, what is in it, and what can be wrong with it."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import LedgerError
from .._processes import boot_id, this_boot

__all__ = ["connect", "file_identity", "in_words"]

_VERSION = 4

# The triggers guard the capacity a second time, against any writer: SQLite refuses a piece that
# would take a GPU beyond what it has.
_SCHEMA = """
CREATE TABLE gpus (
    uuid TEXT PRIMARY KEY, model TEXT NOT NULL, position INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL, profile TEXT, parent TEXT, simulated INTEGER NOT NULL,
    present INTEGER NOT NULL
);
CREATE TABLE claims (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE,
    kernel_id TEXT NOT NULL UNIQUE, size TEXT NOT NULL, held INTEGER NOT NULL,
    boot TEXT NOT NULL, pid INTEGER NOT NULL, start_time TEXT NOT NULL,
    kernel_pid INTEGER, kernel_start_time TEXT,
    info TEXT NOT NULL, since TEXT NOT NULL,
    only TEXT NOT NULL DEFAULT '[]',
    namespace TEXT NOT NULL DEFAULT '', host TEXT NOT NULL DEFAULT '',
    machine TEXT NOT NULL DEFAULT '', viewer TEXT NOT NULL DEFAULT ''
);
CREATE TABLE views (
    viewer TEXT NOT NULL, uuid TEXT NOT NULL,
    boot TEXT NOT NULL, namespace TEXT NOT NULL, host TEXT NOT NULL, machine TEXT NOT NULL,
    pid INTEGER NOT NULL, start_time TEXT NOT NULL, others INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (viewer, uuid)
);
CREATE TABLE pieces (
    token TEXT NOT NULL REFERENCES claims(token) ON DELETE CASCADE,
    place INTEGER NOT NULL, uuid TEXT NOT NULL REFERENCES gpus(uuid),
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    PRIMARY KEY (token, place)
);
CREATE INDEX pieces_by_gpu ON pieces(uuid);
CREATE TRIGGER capacity AFTER INSERT ON pieces
WHEN (SELECT sum(memory_bytes) FROM pieces WHERE uuid = NEW.uuid)
   > (SELECT memory_bytes FROM gpus WHERE uuid = NEW.uuid)
BEGIN SELECT RAISE(ABORT, 'capacity exceeded'); END;
CREATE TRIGGER no_growth BEFORE UPDATE ON pieces
BEGIN SELECT RAISE(ABORT, 'pieces do not change'); END;
PRAGMA user_version = 4;
"""
#: From one version to the next.
_UPGRADES = {
    1: "ALTER TABLE claims ADD COLUMN only TEXT NOT NULL DEFAULT '[]'; PRAGMA user_version = 2;",
    2: """
ALTER TABLE claims ADD COLUMN namespace TEXT NOT NULL DEFAULT '';
ALTER TABLE claims ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE claims ADD COLUMN machine TEXT NOT NULL DEFAULT '';
ALTER TABLE claims ADD COLUMN viewer TEXT NOT NULL DEFAULT '';
CREATE TABLE views (
    viewer TEXT NOT NULL, uuid TEXT NOT NULL,
    boot TEXT NOT NULL, namespace TEXT NOT NULL, host TEXT NOT NULL, machine TEXT NOT NULL,
    pid INTEGER NOT NULL, start_time TEXT NOT NULL,
    PRIMARY KEY (viewer, uuid)
);
PRAGMA user_version = 3;
""",
    3: "ALTER TABLE views ADD COLUMN others INTEGER NOT NULL DEFAULT 0; PRAGMA user_version = 4;",
}

#: Of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
#: Of file systems without hard links.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open the ledger, made with its folder where it is not there yet.

    A folder that is made is open to this user only, and so is a file in a folder of one's own. In
    a folder that a group (or everybody) may write, so may the file be; the folder's set-group-ID
    bit then sees to it that the file, and SQLite's journal beside it, are the group's.

    Parameters
    ----------
    timeout: seconds to wait while other processes write.

    Raises
    ------
    sqlite3.Error, OSError: for :func:`in_words`.
    LedgerError: the file is not one that this version can use.
    """
    _make(path)
    if not stat.S_ISREG(path.lstat().st_mode):
        # Opening a pipe would block, and a link in a common folder could lead to any file.
        raise LedgerError(
            f"The ledger {path} is not a plain file; remove it, or name another folder "
            "(LocalEngine.directory)."
        )
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def file_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: tells a file from the one that took its place. None where there is none."""
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return info.st_dev, info.st_ino


def in_words(error: Exception, path: Path) -> str:
    """What happened to the ledger and what to do, in one line."""
    text = str(error).lower()
    number = getattr(error, "errno", None)
    if "full" in text or number == errno.ENOSPC:
        return f"The disk of the ledger {path} is full; make room there."
    if "readonly" in text or isinstance(error, PermissionError) or number == errno.EROFS:
        return (
            f"The ledger {path} cannot be written; give this user the right to write the file and "
            "its folder, or name another folder (LocalEngine.directory)."
        )
    if "locked" in text or "busy" in text:
        # SQLite says the same of both.
        if not _has_locks(path.parent):
            return _no_locks(path)
        return (
            f"The ledger {path} is held by another program; end the program that keeps it open "
            "and try again."
        )
    if "malformed" in text or "not a database" in text or "quick_check" in text:
        return (
            f"The ledger {path} is damaged; end all kernels on this machine's GPUs, remove the "
            "file and start them again."
        )
    if isinstance(error, NotADirectoryError | FileExistsError) or "unable to open" in text:
        return (
            f"The ledger {path} cannot be opened; its folder must exist and be writable "
            "(LocalEngine.directory)."
        )
    return f"The ledger {path} cannot be used: {getattr(error, 'sqlite_errorname', '') or error}."


def _no_locks(path: Path) -> str:
    return (
        f"The file system of the ledger {path} has no locks, without which servers would give out "
        "the same memory; name a folder on a local disk (LocalEngine.directory)."
    )


def _has_locks(folder: Path) -> bool:
    """Tried with a file of its own: closing the ledger would drop this process's locks on it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return _can_lock(file.fileno())
    except OSError:
        return True  # who cannot write there is told something else


def _can_lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def _make(path: Path) -> None:
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    # SQLite would give it the mode that the umask leaves, and copy that to its journal: in a common
    # folder nobody else could write. The empty file gets its name once its mode is right. (It is
    # not opened under that name: closing it would drop the locks of this process's connections.)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".ledger-")
    try:
        others = folder.stat().st_mode & 0o022  # who may write the folder: the group, everybody
        os.fchmod(descriptor, 0o600 | others | others << 1)
        if not _can_lock(descriptor):
            raise LedgerError(_no_locks(path))
        os.link(name, path)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    finally:
        os.close(descriptor)
        Path(name).unlink()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.row_factory = sqlite3.Row
    if _version(db) > _VERSION:
        raise LedgerError(
            f"The ledger {path} was made by a newer jupyter-gpu-share. "
            "Use one version on this machine, or another folder (LocalEngine.directory)."
        )
    # A rollback journal works on every file system; a write-ahead log needs shared memory,
    # which a home folder on a network does not have. A crash of a process loses nothing without
    # fsync, and after one of the machine a new boot begins a new file. A common folder has one file
    # for all boots: it has to be whole after a power cut.
    db.execute("PRAGMA journal_mode = TRUNCATE")
    one_boot = path.parent.name == this_boot() or boot_id() in path.name
    db.execute(f"PRAGMA synchronous = {'OFF' if one_boot else 'FULL'}")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("BEGIN IMMEDIATE")
    while (version := _version(db)) < _VERSION:
        for statement in _statements(_UPGRADES.get(version, _SCHEMA)):
            db.execute(statement)
    db.execute("COMMIT")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("quick_check failed")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """The single statements of a script; ``executescript`` would end the transaction."""
    statement = ""
    for part in script.replace(";", ";\n").splitlines():
        statement += part + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
