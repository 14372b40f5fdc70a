"""Whether the process that a folder belongs to is gone, also where its number means nothing here.

The process keeps a lock on a file in its folder. The system lets go of it when the process ends,
however it ends, and tells every other process of this machine, in whichever container. A process
that stops in good order says itself that it has left, which is true for other machines too.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..engines._places import Place, here
from ..engines._processes import Holder, this_process
from ._private import UnsafeFileError, open_file

__all__ = ["is_gone", "is_mark", "leave", "take"]

_OWNER, _LEFT = "owner", "left"
#: Descriptors of the locked files of this process, by folder.
_held: dict[Path, int] = {}


def take(folder: Path) -> None:
    """Make a folder of this process, or stay its owner.

    Raises
    ------
    OSError
    """
    if folder in _held and (folder / _OWNER).exists():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    place, process = here(), this_process()
    content = {**asdict(place), "pid": process.pid, "start_time": process.start_time}
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".owner-")
    try:
        content["locked"] = _lock(descriptor)
        os.write(descriptor, json.dumps(content).encode())
        # It gets its name once it is locked: before that it would look like one left behind.
        Path(name).replace(folder / _OWNER)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            Path(name).unlink()
        raise
    if folder in _held:
        os.close(_held[folder])
    _held[folder] = descriptor
    with suppress(FileNotFoundError):
        (folder / _LEFT).unlink()


def leave(folder: Path) -> None:
    """Say that this process has left its folder. One that is empty goes.

    Raises
    ------
    OSError
    """
    descriptor = _held.pop(folder, None)
    if descriptor is None:
        return
    os.close(descriptor)
    (folder / _OWNER).replace(folder / _LEFT)
    if [path.name for path in folder.iterdir()] == [_LEFT]:
        (folder / _LEFT).unlink()
        folder.rmdir()


def is_mark(path: Path) -> bool:
    """Whether a file says whose its folder is."""
    return path.name in (_OWNER, _LEFT)


def is_gone(folder: Path) -> bool:
    """True where the process that a folder belongs to is gone for certain, or has left it."""
    try:
        open_file(folder / _LEFT).close()
    except (OSError, UnsafeFileError):
        pass
    else:
        return True
    try:
        with open_file(folder / _OWNER) as file:
            told = json.loads(file.read(4096))
            number, started = int(told.pop("pid")), str(told.pop("start_time"))
            locked = told.pop("locked") is True
            place = Place(**told)
            if place.is_here:
                return not Holder(number, started).alive
            # Between machines a lock may be no more than a wish.
            on_this_machine = place.has_ended or place.boot == here().boot
            return locked and on_this_machine and _is_free(file.fileno())
    except (OSError, UnsafeFileError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _lock(descriptor: int) -> bool:
    """Lock a file until this process ends. False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_free(descriptor: int) -> bool:
    """Whether nobody has a lock on a file. Where the file system has none, that is not known."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return False
    return True
