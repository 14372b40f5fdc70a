"""The file that a snapshot is: pieces in a row, each with a checksum of all that is before it.

::

    magic, version
    piece: kind (1 byte), length (4), content, checksum (4)

Pieces of pickles come first (``P``) and, among them, buffers: their length and what is missing to a
place that can be mapped (``B``), the raw data in a row, and a checksum (``D``, without content).
Then comes the header (JSON, ``H``), whose checksum is its own: it is read before all others. An end
piece (``E``) says how many pieces there are. Everything after a restart piece (``R``) stands for
all before it: what is sent on at once cannot be taken back. Nothing is kept in memory twice on the
way, in either direction.

A checksum is the beginning of the digest of the file so far. It finds damage, not intent: a
snapshot holds code of the user's own. Whoever knows the digest of the whole file has it compared
before anything is made of what was read.
"""

import collections
import hashlib
import hmac
import json
import mmap
import os
import struct
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.digests import LEAF, Digest

__all__ = ["MAGIC", "PIECE", "VERSION", "Damaged", "Full", "Reader", "Writer"]

MAGIC = b"gpu-share snapshot\n"
VERSION = 5
#: The longest chunk that a sink is given.
PIECE = 8 * 2**20
_HEAD = struct.Struct(">cI")
_SUM = 4
_LENGTH = struct.Struct(">Q")
_VERSION = struct.Struct(">H")
_START = len(MAGIC) + _VERSION.size
#: Small writes are gathered up to so many bytes.
_GATHER = 2**20
_KINDS = b"HPBDER"
#: Raw data begins at a multiple of this.
_ALIGNED = 64
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
    cut: a function that makes the file end after so many bytes; None where what was written
        cannot be taken back.
    """

    def __init__(self, sink, limit=None, cut=None):
        self._sink = sink
        self._limit = limit
        self._cut = cut
        self._own = hashlib.sha256()
        self._pieces = 0
        self._pending = bytearray()
        self._hash = Digest()
        self.written = 0
        self._put(MAGIC + _VERSION.pack(VERSION))

    def header(self, content):
        """Write the header, after all else: whatever JSON can hold."""
        self.flush()
        data = memoryview(json.dumps(content).encode("utf-8", "surrogatepass"))
        for start in range(0, len(data), PIECE):
            self._piece(b"H", data[start : start + PIECE])

    def pickled(self, data):
        """Write a part of the pickles; what is long is not copied."""
        if len(data) < _GATHER:
            self._pending += data
        else:
            self.flush()
            with memoryview(data) as view, view.cast("B") as flat:
                for start in range(0, len(flat), PIECE):
                    self._piece(b"P", flat[start : start + PIECE])
        if len(self._pending) >= _GATHER:
            self.flush()

    def buffer(self, view):
        """Write the content of a buffer, a memoryview of bytes."""
        missing = -(self.written + _HEAD.size + _LENGTH.size + _SUM) % _ALIGNED
        self._piece(b"B", _LENGTH.pack(len(view)) + bytes(missing))
        for start in range(0, len(view), PIECE):
            self._put(view[start : start + PIECE])
        self._piece(b"D", b"")

    def flush(self):
        """Hand on what was gathered."""
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._piece(b"P", pending)

    @property
    def takes_back(self):
        """Whether :meth:`back` can be called."""
        return self._cut is not None

    def place(self):
        """Where it is now, for :meth:`back`."""
        self.flush()
        return self.written, self._pieces, self._hash.copy()

    def back(self, place):
        """Have all that was written since as if it had never been."""
        self._pending = bytearray()
        self.written, self._pieces, made = place
        self._hash = made.copy()
        self._cut(self.written)

    def restart(self):
        """Have all that was written so far forgotten by whoever reads it."""
        self._pending = bytearray()
        self._own, self._pieces = hashlib.sha256(), 0
        self._piece(b"R", b"")

    def end(self):
        """Write the last piece."""
        self.flush()
        self._piece(b"E", _LENGTH.pack(self._pieces + 1))

    def _piece(self, kind, content):
        head = _HEAD.pack(kind, len(content))
        self._pieces += 1
        self._put(head)
        if len(content):
            self._put(content)
        if kind == b"H":
            self._own.update(head)
            self._own.update(content)
        self._put((self._own if kind == b"H" else self._hash).digest()[:_SUM])

    def _put(self, data):
        self.written += len(data)
        if self._limit is not None and self.written > self._limit:
            raise Full
        self._hash.update(data)
        self._sink(data)

    @property
    def digest(self):
        """The digest of all that was written, in hexadecimal digits."""
        return self._hash.hexdigest()


class _Piece:
    """A part of the pickles, or a buffer that is not large, of a file whose digest is known.

    It is let go of when it was used, and read again where reading goes back.
    """

    def __init__(self, place, data):
        self._place, self._size, self.data = place, len(data), data

    def of(self, file, leaves):
        """Its content, which is what it was when the digest was compared."""
        if self.data is None:
            self.data = _again(file, leaves, self._place, self._size)
        return self.data


def _again(file, leaves, place, size):
    """Some of a file once more, with the digest of each MiB that it was."""
    first = place // LEAF
    file.seek(first * LEAF)
    data, at = _room(size), place - first * LEAF
    with memoryview(data) as view:
        filled = 0
        for leaf in leaves[first : (place + size - 1) // LEAF + 1]:
            content = file.read(LEAF)
            if not hmac.compare_digest(hashlib.sha256(content).digest(), leaf):
                raise Damaged("it is not what was saved: its digest is another")
            part = memoryview(content)[at : at + size - filled]
            view[filled : filled + len(part)] = part
            filled, at = filled + len(part), 0
    return data


class _Mapped:
    """A file whose content is not copied: what is written there is this process's alone."""

    def __init__(self, file):
        size = os.fstat(file.fileno()).st_size
        self._view = memoryview(_Map(file.fileno(), size, access=mmap.ACCESS_COPY) if size else b"")
        self._at = 0

    def seek(self, place, whence=os.SEEK_SET):
        self._at = place + (len(self._view) if whence == os.SEEK_END else 0)
        return self._at

    def tell(self):
        return self._at

    def read(self, size):
        part = self._view[self._at : self._at + size]
        self._at += len(part)
        return part


class Reader:
    """Reads the pieces of an open file, each only after its checksum was found right.

    Parameters
    ----------
    digest: what that of the whole file has to be, in hexadecimal digits. All is read at once then,
        in one pass, each buffer to where it stays, and nothing is given out before the digest was
        found right: what is given out is what was looked at. None: any.
    mapped: buffers are the file's own content, which must not change meanwhile.

    Raises
    ------
    Damaged: here, in the constructor, for what is cut off or no snapshot at all; while reading for
        what has changed in the middle.
    """

    def __init__(self, file, digest=None, mapped=False):
        self._file = _Mapped(file) if mapped else file  # type: Any
        self._mapped = mapped
        self._digest = digest
        self._hash = Digest()
        self._leaves = []  # type: list[bytes]
        self._first, place = self._walk()
        self.header = {}
        if digest is None:
            self._read_header(place)
        self.rewind()

    def rewind(self):
        """Begin again."""
        self._whole = False
        self._pickles = collections.deque()  # type: collections.deque[Any]
        self._buffers = collections.deque()  # type: collections.deque[Any]
        self._current = memoryview(b"")
        self._hash = Digest()
        self._file.seek(0)
        left = self._first
        while left:  # what is forgotten belongs to the digest
            left -= len(self._exactly(min(left, PIECE)))
        if self._digest is not None:
            self._keep_all()
        elif self._first != _START:
            self._next()  # the restart

    def push(self, data):
        """Have bytes read before all others."""
        if len(self._current):
            self._pickles.appendleft(self._current)
        self._current = memoryview(data)

    def place(self):
        """Where it is now, for :meth:`back`: between two pickles."""
        at = None if self._whole else (self._file.tell(), self._hash.copy())
        return at, self._current, tuple(self._pickles), tuple(self._buffers)

    def back(self, place):
        """Go on reading at an earlier place."""
        at, self._current, pickles, buffers = place
        if at is not None:
            self._file.seek(at[0])
            self._hash = at[1].copy()
        self._pickles = collections.deque(pickles)
        self._buffers = collections.deque(buffers)

    def end(self):
        """Make sure that everything was read.

        Raises
        ------
        Damaged: there is more.
        """
        kind = b"E"
        if not self._whole:
            kind = b"H"
            while kind == b"H":
                kind = self._next()[0]
        if len(self._current) or self._pickles or self._buffers or kind != b"E":
            raise Damaged("it does not end where it should")

    # What an unpickler reads from, and takes its buffers from.

    def peek(self, size):
        """Bytes of the pickles that come next, as many as there are at once; at least one."""
        return self._pickle()

    def read(self, size):
        """Bytes of the pickles."""
        piece = self._pickle() if size else self._current
        if size <= len(piece):
            self._current = piece[size:]
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
            self._current = piece[len(part) :]
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
        return self._used(self._buffers.popleft())

    def _pickle(self):
        while not len(self._current):
            while not self._pickles:
                self._keep(*self._next())
            self._current = memoryview(self._used(self._pickles.popleft()))
        return self._current

    def _used(self, kept):
        if type(kept) is not _Piece:
            return kept
        data = kept.of(self._file, self._leaves)
        kept.data = None
        return data

    def _read_header(self, place):
        """Read the header, which has a checksum of its own."""
        self._file.seek(place)
        header, own = bytearray(), hashlib.sha256()
        while True:
            head = self._file.read(_HEAD.size)
            kind, length = _HEAD.unpack(head)
            if kind != b"H":
                break
            content = self._file.read(length)
            own.update(head)
            own.update(content)
            if self._file.read(_SUM) != own.digest()[:_SUM]:
                raise Damaged("a checksum is wrong")
            header += content
        self._take_header(header)

    def _take_header(self, header):
        try:
            self.header = json.loads(bytes(header).decode("utf-8", "surrogatepass"))
        except ValueError:
            raise Damaged("its header cannot be read") from None

    def _keep_all(self):
        """Read to the end, and compare the digest."""
        header = bytearray()
        while True:
            kind, content = self._next()
            if kind == b"E":
                break
            if kind == b"H":
                header += content
            elif kind == b"P":
                place = self._file.tell() - _SUM - len(content)
                self._pickles.append(_Piece(place, content))
            elif kind != b"R":
                self._keep(kind, content)
        if self._file.read(1) or not hmac.compare_digest(self._hash.hexdigest(), self._digest):
            raise Damaged("it is not what was saved: its digest is another")
        self._whole, self._leaves = True, self._hash.leaves()
        self._take_header(header)

    def _keep(self, kind, content):
        if kind == b"P":
            self._pickles.append(content)
        elif kind == b"B":
            self._buffers.append(self._raw(_LENGTH.unpack(content[: _LENGTH.size])[0]))
        else:
            raise Damaged("it ends before everything was read")

    def _raw(self, length):
        """The content of a buffer, after which its checksum comes."""
        place = self._file.tell()
        data = self._exactly(length) if self._mapped else _room(length)
        if not self._mapped:
            with memoryview(data) as view:
                for start in range(0, length, PIECE):
                    part = view[start : start + PIECE]
                    if self._file.readinto(part) != len(part):
                        raise Damaged("it is cut off")
                    self._hash.update(part)
                self._hash.wait()
        if self._next()[0] != b"D":
            raise Damaged("its pieces do not fit together")
        return _Piece(place, data) if self._digest and 0 < length < _MAPPED else data

    def _next(self):
        """Kind and content of the next piece."""
        if self._whole:
            raise Damaged("it ends before everything was read")
        kind, length = _HEAD.unpack(self._exactly(_HEAD.size))
        content = self._exactly(length)
        if self._digest is not None:  # it says so of all pieces
            self._exactly(_SUM)
        else:
            right = self._hash.digest()[:_SUM]
            if self._exactly(_SUM) != right and kind != b"H":
                raise Damaged("a checksum is wrong")
        return kind, content

    def _exactly(self, size):
        data = self._file.read(size)
        if len(data) != size:
            raise Damaged("it is cut off")
        self._hash.update(data)
        return data

    def _walk(self):
        """Follow the lengths from piece to piece to the end.

        Where reading has to begin, and where the header is.
        """
        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = bytes(file.read(_START))
        if start[: len(MAGIC)] != MAGIC or len(start) != _START:
            raise Damaged("it is no snapshot, or its beginning is missing")
        version = _VERSION.unpack(start[len(MAGIC) :])[0]
        if version != VERSION:
            raise Damaged("it was written in version %d of the format, not %d" % (version, VERSION))
        first, at, pieces, header, before = _START, _START, 0, None, b""
        while True:
            file.seek(at)
            head = file.read(_HEAD.size)
            if len(head) != _HEAD.size:
                raise Damaged("it is cut off")
            kind, length = _HEAD.unpack(head)
            if kind not in _KINDS or length > PIECE or (kind == b"D") != (before == b"B"):
                raise Damaged("its pieces do not fit together")
            content = at + _HEAD.size
            if kind == b"R":
                first, pieces, header = at, 0, None
            elif kind == b"H":
                header = at if header is None else header
            elif header is not None and kind != b"E":
                raise Damaged("its pieces do not fit together")
            pieces += 1
            at = content + length + _SUM
            if at > size:
                raise Damaged("it is cut off")
            if kind == b"B" and _LENGTH.size <= length < _LENGTH.size + _ALIGNED:
                at += _LENGTH.unpack(file.read(_LENGTH.size))[0]
            elif kind == b"B" or (kind == b"E" and length != _LENGTH.size):
                raise Damaged("its pieces do not fit together")
            if at > size:
                raise Damaged("it is cut off")
            if kind == b"E":
                count = _LENGTH.unpack(file.read(length))[0]
                if header is None or at != size or count != pieces:
                    raise Damaged("its pieces do not fit together")
                return first, header
            before = kind


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
