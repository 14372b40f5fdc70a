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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..engines._processes import this_process
from ..errors import EngineError, SizeError
from ..size import Size
from . import _lost, _owners
from ._lost import LOST, Lost
from ._private import UnsafeFileError, common_folder, folders, new_file, open_file, seal

__all__ = [
    "NotOursError",
    "Note",
    "file_name",
    "forget",
    "forget_parts",
    "kept_folder",
    "leave",
    "losses_of",
    "make_folder",
    "not_taken",
    "settle",
    "sweep",
    "take_over",
    "was_told",
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
#: What was told of already, in the log and in a notebook: it is looked at often.
_told: set[Path] = set()
_told_there: set[Path] = set()
#: Why kernels of this process could not be begun whose variables it has taken over, by their file.
_not_taken: dict[Path, str] = {}


class NotOursError(EngineError):
    """What is written beside saved variables is not what a server of this user has written.

    Attributes
    ----------
    whose: ``root`` and ``path`` of the notebook, where one has written that for certain.
    """

    def __init__(self, why: str, whose: Mapping[str, Any] | None = None) -> None:
        super().__init__(why)
        self.whose = dict(whose or {})


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
        content["seal"] = seal(_PURPOSE, content)
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
            version, told = found["format"], found.pop("seal")
            ours = isinstance(told, str) and hmac.compare_digest(
                told.encode(), seal(_PURPOSE, found).encode()
            )
            if version != _FORMAT:
                why = f"it is of version {version!r} of the format, not {_FORMAT}"
                raise NotOursError(why, found if ours else {})
            if not ours:
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
        except OSError as error:  # somebody else was faster, or it cannot be had
            if not mine.exists():
                forget(mine)
            if os.path.lexists(kept):
                _log.warning("Saved variables cannot be taken over: %s: %s", kept, error.strerror)
            continue
        for path in (kept.with_suffix(NOTE), kept.with_suffix(LOST)):
            with suppress(OSError):
                path.unlink()
        taken.append(note)
    return taken


def _sound(kept: Path) -> tuple[Note, str]:
    """What is written beside a file that is one. What is unsound is logged, once.

    Raises
    ------
    NotOursError
    """
    whose: Mapping[str, Any] = {}
    try:
        found = Note.beside(kept)
        whose = asdict(found[0])
        open_file(kept).close()
    except (OSError, UnsafeFileError, NotOursError) as error:
        if isinstance(error, FileNotFoundError):  # somebody else has just taken it
            raise NotOursError("it is gone") from error
        if isinstance(error, NotOursError):
            whose = error.whose
        why = f"{error.strerror}" if isinstance(error, OSError) else str(error).rstrip(".")
        if kept not in _told:
            _told.add(kept)
            _log.warning("Saved variables are left alone: %s: %s", kept, why)
        raise NotOursError(why, whose) from error
    return found


def losses_of(folder: Path, root: str, path: str, lifetime: float) -> list[tuple[Path, str]]:
    """What a notebook has lost since its last kernel, for the first that starts anew.

    Parameters
    ----------
    folder: this process's.
    root: folder of notebooks; ``path``: of the notebook, within that.
    lifetime: seconds for which saved variables may wait for another server.

    Returns
    -------
    list: each with the line for its user, and what :func:`was_told` takes once that was told.
    """
    found = []
    for dead in _dead(folder):
        for note in sorted(dead.glob("*" + LOST)):
            lost = Lost.read(note)
            if lost is not None and (lost.root, lost.path) == (root, path):
                found.append((note, lost.line))
        for kept in sorted(dead.glob("*" + KEPT)):
            line = _line_of(kept, root, path) if kept not in _told_there else ""
            if line and lifetime:
                found.append((kept, line))
    for kept, why in list(_not_taken.items()):
        with suppress(NotOursError):
            whose, _ = _sound(kept)
            if (whose.root, whose.path) == (root, path):
                found.append((kept, _lost.not_taken(kept, why)))
    return found


def _line_of(kept: Path, root: str, path: str) -> str:
    """What is said of a file that nobody has taken over, where it is of that notebook."""
    try:
        note, _ = _sound(kept)
    except NotOursError as error:
        ours = (error.whose.get("root"), error.whose.get("path")) == (root, path)
        return _lost.left_alone(kept, str(error)) if ours else ""
    return _lost.waits() if (note.root, note.path) == (root, path) else ""


def was_told(path: Path) -> None:
    """A notebook was told of what :func:`losses_of` has found."""
    if path.suffix == LOST:
        with suppress(OSError):
            path.unlink()
    else:  # it stays, and is told of once by each server
        _told_there.add(path)
        _not_taken.pop(path, None)


def not_taken(folder: Path, kernel_id: str, why: str) -> None:
    """The kernel of variables that this process has taken over could not be begun."""
    _not_taken[folder / file_name(kernel_id)] = why


def forget(kept: Path) -> None:
    """Remove a file of variables, whose it is, what is lost, and what a save has left."""
    for path in (kept, kept.with_suffix(NOTE), kept.with_suffix(LOST)):
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
                if kept.name not in waiting:
                    _leave_word(kept, lifetime)
        for lost in dead.glob("*" + LOST):
            with suppress(OSError):
                if now - lost.lstat().st_mtime <= _lost.lasts(lifetime):
                    waiting.add(lost.name)
        if not waiting:
            shutil.rmtree(dead, ignore_errors=True)
            continue
        for path in dead.iterdir():
            if path.name not in waiting and not _owners.is_mark(path):
                with suppress(OSError):
                    path.unlink()


def _leave_word(kept: Path, lifetime: float) -> None:
    """Have the notebook say that its variables waited too long."""
    whose: Mapping[str, Any]
    try:
        whose = asdict(_sound(kept)[0])
    except NotOursError as error:
        whose = error.whose
    root, path = whose.get("root"), whose.get("path")
    if isinstance(root, str) and isinstance(path, str):
        line = _lost.too_old(kept.lstat().st_mtime, lifetime)
        with suppress(EngineError):
            Lost(root, path, line).write(kept)


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
