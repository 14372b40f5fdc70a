"""The digest of a file's content, which several threads make together.

It is the SHA-256 of the SHA-256s of each MiB: one core alone would be slower than a disk, and what
is read once more is looked at without the rest.
"""

import hashlib
import os
import threading
from typing import Any  # noqa: F401 - in a comment

__all__ = ["LEAF", "Digest"]

#: Bytes that have a digest of their own.
LEAF = 2**20
#: What is shorter is not worth a thread.
_ASIDE = 2**18


def _cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # where it is no Linux
        return os.cpu_count() or 1


#: Threads at most. More would not be faster than memory.
_LANES = min(4, _cores())


class Digest:
    """The digest of what it is given one after the other.

    What is long is taken in by other threads: it must not change before :meth:`wait`.
    """

    def __init__(self):
        self._leaves = []  # type: list[Any]  # of all MiB that are whole
        self._leaf, self._filled = hashlib.sha256(), 0
        self._root, self._rooted = hashlib.sha256(), 0  # of so many leaves
        self._threads = {}  # type: dict[int, threading.Thread]

    def update(self, data):
        """Take bytes in, or a memoryview of bytes."""
        size = len(data)
        if size < _ASIDE and self._filled + size < LEAF:
            self._join(self._lane)
            self._leaf.update(data)
            self._filled += size
            return
        lanes = {}  # type: dict[int, list[Any]]
        with memoryview(data) as view:
            start = 0
            while start < size:
                part = view[start : start + LEAF - self._filled]
                lanes.setdefault(self._lane, []).append((self._leaf, part))
                start += len(part)
                self._filled += len(part)
                if self._filled == LEAF:
                    self._leaves.append(self._leaf)
                    self._leaf, self._filled = hashlib.sha256(), 0
            for lane, work in lanes.items():
                self._join(lane)
                self._begin(lane, work, size)

    @property
    def _lane(self):
        """Which thread takes the MiB at hand: one alone, so that its parts stay in order."""
        return len(self._leaves) % _LANES

    def _begin(self, lane, work, size):
        if size >= _ASIDE and _LANES > 1:
            thread = threading.Thread(target=_take, args=(work,), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are as many as there may be
                pass
            else:
                self._threads[lane] = thread
                return
        _take(work)

    def _join(self, lane):
        thread = self._threads.pop(lane, None)
        if thread is not None:
            thread.join()

    def wait(self):
        """Until all that was given is in the digest."""
        for lane in list(self._threads):
            self._join(lane)

    def copy(self):
        """The same, which goes on by itself."""
        self.wait()
        other = Digest()
        other._leaves = list(self._leaves)
        other._leaf, other._filled = self._leaf.copy(), self._filled
        other._root, other._rooted = self._root.copy(), self._rooted
        return other

    def digest(self):
        """What it is so far, 32 bytes."""
        self.wait()
        for leaf in self._leaves[self._rooted :]:
            self._root.update(leaf.digest())
        self._rooted = len(self._leaves)
        made = self._root.copy()
        if self._filled:
            made.update(self._leaf.digest())
        return made.digest()

    def hexdigest(self):
        """The same in hexadecimal digits."""
        return self.digest().hex()

    def leaves(self):
        """The digest of each MiB, of the last one as far as it goes."""
        self.wait()
        found = [leaf.digest() for leaf in self._leaves]
        return [*found, self._leaf.digest()] if self._filled else found


def _take(work):
    for leaf, part in work:
        leaf.update(part)
        part.release()
