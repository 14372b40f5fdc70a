"""The file that a snapshot is: pieces in a row, each with a checksum of all that is before it.

::

    magic, version
    piece: kind (1 byte), length (4), checksum (4), content

A header comes first (JSON, ``H``), then pieces of pickles (``P``) and, each announced by its length
(``B``), the raw data of buffers (``D``); an end piece (``E``) says how many pieces there are.
Everything after a restart piece (``R``) stands for all before it: what is sent on at once cannot be
taken back. Nothing is kept in memory twice on the way, in either direction.

The checksum finds damage, not intent: a snapshot holds code of the user's own. Whoever knows the
digest of the whole file (SHA-256) has it compared before anything is made of what was read.
"""

import collections
import hashlib
import hmac
import json
import mmap
import os
import struct
import zlib
from typing import Any  # noqa: F401 - in a comment

__all__ = ["MAGIC", "PIECE", "VERSION", "Damaged", "Full", "Reader", "Writer"]

MAGIC = b"gpu-share snapshot\n"
VERSION = 3
#: The longest chunk that a sink is given.
PIECE = 8 * 2**20
_HEAD = struct.Struct(">cII")
_LENGTH = struct.Struct(">Q")
_VERSION = struct.Struct(">H")
_START = len(MAGIC) + _VERSION.size
#: Small writes are gathered up to so many bytes.
_GATHER = 2**20
_KINDS = b"HPBDER"
#: Buffers of so many bytes are mapped: a bytearray would be filled with zeros first.
_MAPPED = 16 * 2**20


class Damaged(Exception):  # noqa: N818 - a finding about a file, told to the user
    """The file is not what was written; the text is a sentence."""


class Full(Exception):  # noqa: N818 - a limit of somebody's, no fault
    """More would have to be written than is allowed."""


class Writer:
    """Writes the pieces to ``sink``, a function that takes them in chunks of at most 8 MiB.

    Parameters
    ----------
    limit: bytes that may be written in all, or None.
    """

    def __init__(self, sink, limit=None):
        self._sink = sink
        self._limit = limit
        self._crc = 0
        self._pieces = 0
        self._pending = bytearray()
        self._hash = hashlib.sha256()
        self.written = 0
        self._put(MAGIC + _VERSION.pack(VERSION))

    def header(self, content):
        """Write the header: whatever JSON can hold."""
        data = memoryview(json.dumps(content).encode("utf-8", "surrogatepass"))
        for start in range(0, len(data), PIECE):
            self._piece(b"H", data[start : start + PIECE])

    def pickled(self, data):
        """Write a part of the pickles; what is long is not copied."""
        with memoryview(data) as view, view.cast("B") as flat:
            if len(flat) >= _GATHER:
                self.flush()
                for start in range(0, len(flat), PIECE):
                    self._piece(b"P", flat[start : start + PIECE])
            else:
                self._pending += flat
        if len(self._pending) >= _GATHER:
            self.flush()

    def buffer(self, view):
        """Write the content of a buffer, a memoryview of bytes."""
        self._piece(b"B", _LENGTH.pack(len(view)))
        for start in range(0, len(view), PIECE):
            self._piece(b"D", view[start : start + PIECE])

    def flush(self):
        """Hand on what was gathered."""
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._piece(b"P", pending)

    def restart(self):
        """Have all that was written so far forgotten by whoever reads it."""
        self._pending = bytearray()
        self._crc = self._pieces = 0
        self._piece(b"R", b"")

    def end(self):
        """Write the last piece."""
        self.flush()
        self._piece(b"E", _LENGTH.pack(self._pieces + 1))

    def _piece(self, kind, content):
        head = kind + struct.pack(">I", len(content))
        self._crc = zlib.crc32(content, zlib.crc32(head, self._crc))
        self._pieces += 1
        self._put(head + struct.pack(">I", self._crc))
        if len(content):
            self._put(content)

    def _put(self, data):
        self.written += len(data)
        if self._limit is not None and self.written > self._limit:
            raise Full
        self._hash.update(data)
        self._sink(data)

    @property
    def digest(self):
        """SHA-256 of all that was written, in hexadecimal digits."""
        return self._hash.hexdigest()


class Reader:
    """Reads the pieces of an open file, each only after its checksum was found right.

    Parameters
    ----------
    digest: SHA-256 that the whole file has to have, in hexadecimal digits. All is read at once
        then, in one pass, each buffer to where it stays, and nothing is given out before the
        digest was found right: what is given out is what was looked at. None: any.

    Raises
    ------
    Damaged: here, in the constructor, for what is cut off or no snapshot at all; while reading for
        what has changed in the middle.
    """

    def __init__(self, file, digest=None):
        self._file = file
        self._digest = digest
        self._hash = None  # type: Any
        self._first = self._walk()
        self.header = {}
        self.rewind()

    def rewind(self):
        """Begin again: reads the header."""
        self._whole = False
        self._hash = None if self._digest is None else hashlib.sha256()
        self._file.seek(0 if self._hash else self._first)
        if self._hash:
            self._skip(self._first)
        self._crc = 0
        self._pickles = collections.deque()  # type: collections.deque[memoryview]
        self._buffers = collections.deque()  # type: collections.deque[bytearray | mmap.mmap]
        header = bytearray()
        while True:
            kind, content = self._next()
            if kind == b"H":
                header += content
            elif kind != b"R":
                break
        self._keep(kind, content)
        if self._hash:
            self._keep_all()
        try:
            self.header = json.loads(bytes(header).decode("utf-8", "surrogatepass"))
        except ValueError:
            raise Damaged("its header cannot be read") from None

    def push(self, data):
        """Have bytes read before all others."""
        self._pickles.appendleft(memoryview(data))

    def place(self):
        """Where it is now, for :meth:`back`: between two pickles."""
        return self._file.tell(), self._crc, tuple(self._pickles), tuple(self._buffers)

    def back(self, place):
        """Go on reading at an earlier place."""
        self._file.seek(place[0])
        self._crc = place[1]
        self._pickles = collections.deque(place[2])
        self._buffers = collections.deque(place[3])

    def end(self):
        """Make sure that everything was read.

        Raises
        ------
        Damaged: there is more.
        """
        left = any(len(piece) for piece in self._pickles) or self._buffers
        if left or not (self._whole or self._next()[0] == b"E"):
            raise Damaged("it does not end where it should")

    # What an unpickler reads from, and takes its buffers from.

    def read(self, size):
        """Bytes of the pickles."""
        piece = self._pickle()
        if size <= len(piece):
            self._pickles[0] = piece[size:]
            return bytes(piece[:size])
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, target):
        """Fill a buffer with bytes of the pickles."""
        filled, size = 0, len(target)
        while filled < size:
            piece = self._pickle()
            part = piece[: size - filled]
            target[filled : filled + len(part)] = part
            self._pickles[0] = piece[len(part) :]
            filled += len(part)
        return size

    def readline(self):
        """A line of the pickles."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.read(1)
        return line

    def __iter__(self):
        return self

    def __next__(self):
        """The next buffer: memory of its own that can be written to."""
        while not self._buffers:
            self._keep(*self._next())
        return self._buffers.popleft()

    def _pickle(self):
        while self._pickles and not len(self._pickles[0]):
            self._pickles.popleft()
        while not self._pickles:
            self._keep(*self._next())
        return self._pickles[0]

    def _skip(self, size):
        """Read what is forgotten: it belongs to the digest."""
        while size:
            size -= len(self._exactly(min(size, PIECE)))

    def _keep_all(self):
        """Read to the end, and compare the digest."""
        while True:
            kind, content = self._next()
            if kind == b"E":
                break
            self._keep(kind, content)
        if self._file.read(1) or not hmac.compare_digest(self._hash.hexdigest(), self._digest):
            raise Damaged("it is not what was saved: its digest is another")
        self._whole = True

    def _keep(self, kind, content):
        if kind == b"P":
            self._pickles.append(memoryview(content))
        elif kind == b"B":
            data = _room(_LENGTH.unpack(content)[0])
            with memoryview(data) as view:
                at = 0
                while at < len(data):
                    at += self._next(view[at:])[1]
            self._buffers.append(data)
        else:
            raise Damaged("it ends before everything was read")

    def _next(self, into=None):
        """Kind and content of the next piece; its length instead where it was read ``into``."""
        if self._whole:
            raise Damaged("it ends before everything was read")
        kind, length, crc = _HEAD.unpack(self._exactly(_HEAD.size))
        if into is None:
            content = self._exactly(length)
        else:
            if kind != b"D" or not 0 < length <= len(into):
                raise Damaged("its pieces do not fit together")
            content = into[:length]
            if self._file.readinto(content) != length:
                raise Damaged("it is cut off")
            if self._hash:
                self._hash.update(content)
        self._crc = zlib.crc32(content, zlib.crc32(kind + struct.pack(">I", length), self._crc))
        if crc != self._crc:
            raise Damaged("a checksum is wrong")
        return kind, (content if into is None else length)

    def _exactly(self, size):
        data = self._file.read(size)
        if len(data) != size:
            raise Damaged("it is cut off")
        if self._hash:
            self._hash.update(data)
        return data

    def _walk(self):
        """Follow the lengths from piece to piece to the end; where reading has to begin."""
        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(_START)
        if start[: len(MAGIC)] != MAGIC or len(start) != _START:
            raise Damaged("it is no snapshot, or its beginning is missing")
        version = _VERSION.unpack(start[len(MAGIC) :])[0]
        if version != VERSION:
            raise Damaged("it was written in version %d of the format, not %d" % (version, VERSION))
        first, at, pieces, announced = _START, _START, 0, 0
        while True:
            file.seek(at)
            head = file.read(_HEAD.size)
            if len(head) != _HEAD.size:
                raise Damaged("it is cut off")
            kind, length, _ = _HEAD.unpack(head)
            if kind not in _KINDS or length > PIECE:
                raise Damaged("its pieces do not fit together")
            content = at + _HEAD.size
            if kind == b"R":
                first, pieces, announced = at, 0, 0
            pieces += 1
            at = content + length
            if at > size:
                raise Damaged("it is cut off")
            if kind in b"BE" and length != _LENGTH.size:
                raise Damaged("its pieces do not fit together")
            if kind == b"B" and not announced:
                announced = _LENGTH.unpack(file.read(length))[0]
            elif kind == b"D" and length <= announced:
                announced -= length
            elif announced or kind in b"BD":
                raise Damaged("its pieces do not fit together")
            if kind == b"E":
                if at != size or _LENGTH.unpack(file.read(length))[0] != pieces:
                    raise Damaged("its pieces do not fit together")
                return first


class _Memory(bytearray):
    """Has nobody but what is loaded into it: what lies over it need not share it."""

    of_a_snapshot = True


class _Map(mmap.mmap):
    """The same of what is large."""

    of_a_snapshot = True


def _room(size):
    if size < _MAPPED:
        return _Memory(size)
    # Private: a forked child must have its own, as of any other memory.
    return _Map(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
