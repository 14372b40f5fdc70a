"""Files that are this user's alone: how they are made, opened, sealed and found unsafe.

A folder in common (``/scratch/kept``) is full of other people's files, and of links to anywhere.
What is opened here is looked at once it is open, so that it cannot be another one by then.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

from ..errors import EngineError

__all__ = [
    "UnsafeFileError",
    "common_folder",
    "folders",
    "new_file",
    "open_file",
    "replace_file",
    "seal",
    "user_key",
]

_log = logging.getLogger(__name__)

_KEY_BYTES = 32
#: Of file systems without hard links.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


class UnsafeFileError(EngineError):
    """A file or folder is not what this user alone can have made; the text is a sentence."""


def new_file(path: Path) -> Any:
    """A new file to write that only its owner reads, in the place of what has its name."""
    with suppress(FileNotFoundError):
        path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def replace_file(path: Path, content: bytes) -> None:
    """Have a file, which only its owner reads, be this on the disk, or be what it was.

    For files that one process writes.

    Raises
    ------
    OSError
    """
    partial = path.with_suffix(".part")
    with new_file(partial) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def open_file(path: Path) -> Any:
    """A file to read, in bytes, that only this user can have written.

    Raises
    ------
    UnsafeFileError: it is a link or no plain file, or others own, read or write it.
    OSError
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError(f"{path} is a link; it is not followed.") from error
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise UnsafeFileError(f"{path} is not a plain file.")
        _check(path, info)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def common_folder(base: Path) -> Path:
    """This user's own folder in one that several users may have in common; made if need be.

    Nobody can keep it from being made: where somebody else has taken its name, it gets another.

    Raises
    ------
    UnsafeFileError: others could put theirs in its place, or it is open to them.
    OSError
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = base.stat()
    others = stat.S_IWOTH | (stat.S_IWGRP if info.st_uid != os.getuid() else 0)
    if info.st_mode & others and not info.st_mode & stat.S_ISVTX:
        raise UnsafeFileError(
            f"In {base} users can take each other's folders away; set its sticky bit "
            f"(chmod +t {base}), or name another folder (IdlePolicy.snapshot_folder)."
        )
    for folder in folders(base):
        return folder
    own = base / str(os.getuid())
    try:
        own.mkdir(mode=0o700)
        own.chmod(0o700)  # less may be left of it by a mask, more by rules of the folder above
    except FileExistsError:
        if own.lstat().st_uid == os.getuid():
            _check_folder(own)
            return own  # another process of this user was faster
        _log.warning("%s is somebody else's; variables are kept beside it", own)
        own = Path(tempfile.mkdtemp(dir=base, prefix=f"{os.getuid()}."))
    _check_folder(own)
    return own


def folders(base: Path) -> Iterator[Path]:
    """This user's own folders there, which are private.

    Raises
    ------
    UnsafeFileError: one is open to others.
    """
    name = str(os.getuid())
    try:
        entries = sorted(base.iterdir(), key=lambda path: (len(path.name), path.name))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name != name and not entry.name.startswith(f"{name}."):
            continue
        with suppress(FileNotFoundError):
            if entry.lstat().st_uid == os.getuid():
                _check_folder(entry)
                yield entry


def user_key(folder: Path | None = None) -> bytes:
    """The key of this user's servers, made at first use.

    Parameters
    ----------
    folder: where it lies; None: in the user's Jupyter data folder.

    Raises
    ------
    UnsafeFileError: others could know it, or it is none.
    OSError
    """
    path = (folder or Path(jupyter_data_dir()) / "gpu-share") / "key"
    if not os.path.lexists(path):
        _make_key(path)
    try:
        with open_file(path) as file:
            key = file.read(_KEY_BYTES + 1)
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"The key of saved variables cannot be trusted: {error} Remove it; what was saved "
            "with it is lost then."
        ) from error
    if len(key) != _KEY_BYTES:
        raise UnsafeFileError(
            f"The key of saved variables, {path}, is damaged; remove it. What was saved with it is "
            "lost then."
        )
    return bytes(key)


def seal(purpose: bytes, content: dict[str, Any]) -> str:
    """What only this user's servers can write below plain data, in hexadecimal digits.

    Raises
    ------
    UnsafeFileError, OSError: see :func:`user_key`.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(user_key(), purpose + text.encode(), sha256).hexdigest()


def _make_key(path: Path) -> None:
    """Of several who do it at once, one makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _alone(path.with_name(".key-lock")):
            if not os.path.lexists(path):
                Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock meanwhile, where the file system has locks."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_folder(path: Path) -> None:
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise UnsafeFileError(f"{path} is a link or no folder; remove it.")
    _check(path, info)


def _check(path: Path, info: os.stat_result) -> None:
    if info.st_uid != os.getuid():
        raise UnsafeFileError(f"{path} belongs to somebody else.")
    if info.st_mode & 0o077:
        raise UnsafeFileError(f"{path} is open to others (mode {stat.S_IMODE(info.st_mode):o}).")
