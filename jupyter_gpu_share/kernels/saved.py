"""Files with the variables of kernels whose process ended to give its share back.

They lie in a folder of the process that saved them, below one of its user. A Jupyter server writes
beside each whose it is: once it has stopped or was killed, the next one of the same folder of
notebooks takes them over. What other programs leave, nobody could ask for.

A file of variables is code: whoever loads it does what it says. So what is written beside it has a
seal, made with a key that only this user's servers have, over whose it is and the digest of the
file's content. The kernel that loads the file compares the digest of what it has read, before it
makes anything of it.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..engines._processes import this_process
from ..errors import EngineError, SizeError
from ..size import Size
from . import _owners
from ._private import UnsafeFileError, common_folder, folders, new_file, open_file, user_key

__all__ = [
    "NotOursError",
    "Note",
    "file_name",
    "forget",
    "forget_parts",
    "kept_folder",
    "leave",
    "make_folder",
    "settle",
    "sweep",
    "take_over",
]

_log = logging.getLogger(__name__)

#: Endings of a file's name: the variables, and whose they are.
KEPT, NOTE = ".kept", ".json"
#: Of what is written beside a file. It grows with each change that an older server must know of.
_FORMAT = 2
_PURPOSE = b"jupyter-gpu-share: whose saved variables are\0"
_DIGEST = re.compile("[0-9a-f]{64}")
#: Folders of this process that had to get another name, since somebody else has taken theirs.
_elsewhere: dict[Path, Path] = {}
#: What was told of already: it is looked at often.
_told: set[Path] = set()


class NotOursError(EngineError):
    """What is written beside saved variables is not what a server of this user has written."""


@dataclass(frozen=True)
class Note:
    """Whose variables a file has.

    Attributes
    ----------
    root: folder of notebooks of the server, which is who may take them over.
    path: of the notebook, within that folder.
    """

    kernel_id: str
    kernel_name: str
    size: str
    root: str
    path: str | None

    def write(self, kept: Path, digest: str) -> None:
        """Put it beside a file of variables, sealed.

        Parameters
        ----------
        digest: that of the file's content (``gpu_share_kernel.digests``), in hexadecimal digits.

        Raises
        ------
        EngineError, OSError
        """
        content = {"format": _FORMAT, "digest": digest, **asdict(self)}
        content["seal"] = _seal(content)
        partial = kept.with_suffix(".note")
        with new_file(partial) as file:
            file.write(json.dumps(content).encode())
        settle(partial, kept.with_suffix(NOTE))

    @classmethod
    def beside(cls, kept: Path) -> tuple[Note, str]:
        """What is written beside a file of variables, and the digest of its content.

        Raises
        ------
        NotOursError: it is damaged, of another user, kernel or version, or not there.
        """
        try:
            with open_file(kept.with_suffix(NOTE)) as file:
                found = json.loads(file.read(2**20))
            version, seal = found["format"], found.pop("seal")
            if version != _FORMAT:
                raise NotOursError(f"it is of version {version!r} of the format, not {_FORMAT}")
            if not isinstance(seal, str) or not hmac.compare_digest(
                seal.encode(), _seal(found).encode()
            ):
                raise NotOursError("its seal is not of this user's servers")
            digest, _ = found.pop("digest"), found.pop("format")
            note = cls(**found)
            Size.parse(note.size)
        except FileNotFoundError as error:
            raise NotOursError("nothing says whose it is") from error
        except UnsafeFileError as error:
            raise NotOursError(str(error)) from error
        except OSError as error:
            raise NotOursError(f"{error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, SizeError) as error:
            raise NotOursError("what says whose it is is damaged") from error
        if kept.name != file_name(note.kernel_id):
            raise NotOursError("it is of another kernel")
        if not _DIGEST.fullmatch(digest):
            raise NotOursError("what says whose it is is damaged")
        return note, digest


def _seal(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(user_key(), _PURPOSE + text.encode(), sha256).hexdigest()


def file_name(kernel_id: str) -> str:
    """Of a kernel's variables. Clients choose the id: it must not become a path."""
    return sha256(kernel_id.encode("utf-8", "surrogatepass")).hexdigest()[:32] + KEPT


def kept_folder(base: Path) -> Path:
    """Where this process keeps variables: what it leaves behind can be told from others'."""
    folder = base / str(os.getuid()) / this_process().folder
    return _elsewhere.get(folder, folder)


def make_folder(folder: Path) -> Path:
    """Make this process's folder, below this user's own, and say where it is.

    Raises
    ------
    UnsafeFileError: others could change what is in it.
    OSError
    """
    own = common_folder(folder.parent.parent) / folder.name
    _owners.take(own)
    if own != folder:
        _elsewhere[folder] = own
    return own


def leave(folder: Path) -> None:
    """Let go of this process's folder: it keeps no more variables, whoever looks from where."""
    with suppress(OSError, UnsafeFileError):
        for own in folders(folder.parent.parent):
            _owners.leave(own / folder.name)


def take_over(folder: Path, root: str, lifetime: float) -> list[Note]:
    """Have the variables that dead processes have saved for the notebooks below ``root``.

    Of several who do this at once one gets each. They lie in ``folder``, this process's, then.
    What has waited for more than ``lifetime`` seconds is forgotten. What is not sound is logged
    and left alone.
    """
    try:
        return _take_over(folder, root, lifetime)
    except (OSError, EngineError) as error:
        _log.warning("Saved variables cannot be taken over: %s", error)
        return []


def _take_over(folder: Path, root: str, lifetime: float) -> list[Note]:
    sweep(folder, lifetime)
    taken = []
    for kept in [kept for dead in _dead(folder) for kept in sorted(dead.glob("*" + KEPT))]:
        try:
            note, digest = _sound(kept)
        except NotOursError:
            continue  # it was told of
        if note.root != root:
            continue
        mine = make_folder(folder) / kept.name
        try:
            note.write(mine, digest)
            kept.rename(mine)
        except OSError:  # somebody else was faster, or it cannot be had
            if not mine.exists():
                forget(mine)
            continue
        with suppress(OSError):
            kept.with_suffix(NOTE).unlink()
        taken.append(note)
    return taken


def _sound(kept: Path) -> tuple[Note, str]:
    """What is written beside a file that is one. What is unsound is logged, once.

    Raises
    ------
    NotOursError
    """
    try:
        found = Note.beside(kept)
        open_file(kept).close()
    except (UnsafeFileError, NotOursError) as error:
        if kept not in _told:
            _told.add(kept)
            why = str(error).rstrip(".")
            _log.warning("Saved variables are left alone: %s: %s", kept, why)
        raise NotOursError(str(error)) from error
    except OSError as error:
        raise NotOursError(f"{error.strerror}") from error
    return found


def forget(kept: Path) -> None:
    """Remove a file of variables, whose it is, and what was left in the middle of a save."""
    for path in (kept, kept.with_suffix(NOTE)):
        with suppress(OSError):
            path.unlink()
    forget_parts(kept)


def forget_parts(kept: Path) -> None:
    """Remove what a save that was cut off has left, as that of a kernel that is killed."""
    with suppress(OSError):
        for path in list(kept.parent.glob(f"{kept.stem}.part*")):
            with suppress(OSError):
                path.unlink()


def sweep(folder: Path, lifetime: float) -> None:
    """Remove what dead processes have left, but what may still be taken over.

    Parameters
    ----------
    folder: this process's.
    lifetime: seconds for which that may be.
    """
    _tell_of_older(folder.parent.parent)
    now = time.time()
    for dead in _dead(folder):
        waiting = set()
        for kept in dead.glob("*" + KEPT):
            note = kept.with_suffix(NOTE)
            with suppress(OSError):
                if not os.path.lexists(note):
                    continue  # of a program that is no server
                if now - kept.lstat().st_mtime <= lifetime:
                    waiting |= {kept.name, note.name}
                with suppress(NotOursError):
                    found, _ = _sound(kept)
                    if kept.name not in waiting:
                        where = found.path or found.kernel_id
                        _log.warning("The variables of %s waited too long and are forgotten", where)
        if not waiting:
            shutil.rmtree(dead, ignore_errors=True)
            continue
        for path in dead.iterdir():
            if path.name not in waiting and not _owners.is_mark(path):
                with suppress(OSError):
                    path.unlink()


def _dead(folder: Path) -> Iterator[Path]:
    """Folders of processes of this user that are gone for certain."""
    for own in folders(folder.parent.parent):
        for each in sorted(own.iterdir()):
            if each.name != folder.name and _owners.is_gone(each):
                yield each


def _tell_of_older(base: Path) -> None:
    """Log what a version before this one has left: it has no seal, so it is not loaded."""
    with suppress(OSError):
        for older in base.glob(f"{socket.gethostname()}-????????"):
            if older in _told or older.is_symlink() or older.lstat().st_uid != os.getuid():
                continue
            if next(older.glob(f"*/*{KEPT}"), None) is not None:
                _told.add(older)
                _log.warning(
                    "Variables that an earlier version has saved in %s cannot be told from "
                    "others', and are left alone; remove the folder",
                    older,
                )


def settle(partial: Path, path: Path) -> None:
    """Give a file that is complete its name, on the disk too."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
