"""Saved variables that are encrypted on the disk.

::

    magic, salt (16 bytes)
    chunk: 1 MiB (the last one: less, or none), encrypted by AES-256-GCM with its tag

The key of a file is made of the user's key, the salt and the kernel's id. A chunk's nonce is its
number, and whether it is the last: chunks cannot be put in another order, left out, cut off or
taken from another file. On their way between the disk and a kernel of this machine the variables
lie in memory (``/dev/shm``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..engines._processes import sweep_folders, this_process
from ..errors import EngineError
from ._private import UnsafeFileError, user_key

__all__ = [
    "Encrypted",
    "NotEncryptedError",
    "decrypted",
    "is_encrypted",
    "make_workplace",
    "missing",
]

_MAGIC = b"gpu-share encrypted 1\n"
_PURPOSE = b"jupyter-gpu-share: saved variables of "
_SALT = 16
_CHUNK, _TAG = 2**20, 16
#: A file system in memory, on every Linux.
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of this user's own is made in it


class NotEncryptedError(EngineError):
    """Variables cannot be encrypted, or not be decrypted; the text is a sentence."""


def missing() -> str:
    """Why nothing can be encrypted here, a sentence; empty where it can."""
    try:
        _library()
    except NotEncryptedError as error:
        return str(error)
    if not _MEMORY.is_dir():
        return f"Variables that are to be encrypted need {_MEMORY}, which this system lacks."
    return ""


class Encrypted:
    """Encrypts what is written to it, into a file that is open for writing.

    It is complete once it was closed.
    """

    def __init__(self, file: Any, kernel_id: str) -> None:
        salt = os.urandom(_SALT)
        self._file = file
        self._cipher = _cipher(salt, kernel_id)
        self._pending = bytearray()
        self._number = 0
        file.write(_MAGIC + salt)

    def write(self, data: bytes) -> None:
        """Write some bytes."""
        self._pending += data
        while len(self._pending) > _CHUNK:  # the last one has to be known as such
            self._put(bytes(self._pending[:_CHUNK]), last=False)
            del self._pending[:_CHUNK]

    def close(self) -> None:
        """Write what is left; the file stays open."""
        self._put(bytes(self._pending), last=True)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, None))
        self._number += 1


def is_encrypted(file: Any) -> bool:
    """Whether a file, open at its beginning, is encrypted. It is there again then."""
    found: bytes = file.read(len(_MAGIC))
    file.seek(0)
    return found == _MAGIC


def decrypted(file: Any, kernel_id: str) -> Iterator[bytes]:
    """The content of an encrypted file, piece by piece, each only after it was found genuine.

    Raises
    ------
    NotEncryptedError: it was changed, cut off, or is of another user or kernel.
    """
    from cryptography.exceptions import InvalidTag

    file.read(len(_MAGIC))
    cipher = _cipher(file.read(_SALT), kernel_id)
    chunk, number, last = file.read(_CHUNK + _TAG), 0, False
    while not last:
        following = file.read(_CHUNK + _TAG)
        last = not following
        try:
            yield cipher.decrypt(_nonce(number, last=last), chunk, None)
        except InvalidTag as error:
            raise NotEncryptedError(
                "The encrypted file was changed or cut off, or is of another user or kernel."
            ) from error
        chunk, number = following, number + 1


def make_workplace() -> Path:
    """A new folder in memory that only this user can enter. Who made it removes it.

    Raises
    ------
    UnsafeFileError: somebody else has taken its name.
    OSError
    """
    base = _MEMORY / f"gpu-share-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    info = base.lstat()
    if base.is_symlink() or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise UnsafeFileError(f"{base} belongs to somebody else or is open to others; remove it.")
    sweep_folders(base)  # of servers that were killed
    own = base / this_process().folder
    own.mkdir(mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=own))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _cipher(salt: bytes, kernel_id: str) -> Any:
    ciphers, kdf, hashes = _library()
    info = _PURPOSE + kernel_id.encode("utf-8", "surrogatepass")
    key = kdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(user_key())
    return ciphers.AESGCM(key)


def _library() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.ciphers import aead
        from cryptography.hazmat.primitives.kdf import hkdf
    except ImportError as error:
        raise NotEncryptedError(
            "Variables are to be encrypted here, which needs the package cryptography: "
            "pip install 'jupyter-gpu-share[encryption]'."
        ) from error
    return aead, hkdf, hashes
