"""The folder of a machine's broker: its own, and one broker's at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ..errors import LedgerError

__all__ = ["take"]

#: What brokers put there, and what a file system of its own has.
_OWN = ("account.", "shares-", ".ledger-", "paused", "simulated", "lock", "lost+found")


def take(folder: Path) -> IO[bytes]:
    """Make a folder if need be, open to this user only, and have it until the result is closed.

    Raises
    ------
    LedgerError: it is somebody else's, is for other things, too, or another broker has it.
    OSError
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.stat()
    if {info.st_uid, folder.lstat().st_uid} != {os.geteuid()}:
        raise LedgerError(
            f"The broker's folder {folder} belongs to somebody else; remove it, or name another in "
            "c.Broker.folder."
        )
    if info.st_mode & 0o077:
        names = sorted(each.name for each in folder.iterdir())
        if others := [name for name in names if not name.startswith(_OWN)]:
            raise LedgerError(
                f"The folder {folder} is open to others and has other things in it, such as "
                f"{others[0]}, which nobody else would reach; name a folder of the broker's own in "
                "c.Broker.folder."
            )
        folder.chmod(0o700)
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise LedgerError(
            f"Another broker has the folder {folder}, and both would give out the same GPUs; end "
            "that one, or name another folder in c.Broker.folder."
        ) from error
    except BaseException:
        lock.close()
        raise
    return lock
