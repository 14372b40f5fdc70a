"""The pickles of a snapshot in a row, as they are written: in one pass where that is possible."""

import gc
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import interrupts
from gpu_share_kernel.snapshot import devices, pickles, process
from gpu_share_kernel.snapshot.kinds import Lost, kind_of

__all__ = ["save_all", "save_at_once"]

#: Bytes of a pickle that are kept until it is known to be one.
_LONG = 256 * 2**10
#: So many plain variables at most have one pickle, each with so many elements.
_LONGEST_RUN = 1000
#: What is plain: Python's own way knows all of it, and calls nothing else.
_LEAVES = frozenset([type(None), bool, int, float, str, bytes])
_CONTAINERS = frozenset([list, tuple, dict, set, frozenset])
_PLAIN = _LEAVES | _CONTAINERS
#: So deep, and among so many objects at once, is looked for what is not.
_DEEPEST, _MOST = 8, 2**17


def save_at_once(entries, writer):
    """Pickle the entries into the file, and take back what cannot be pickled.

    Parameters
    ----------
    writer: a :class:`~gpu_share_kernel.snapshot.records.Writer` that takes back. What it raises
        comes through.

    Returns
    -------
    tuple: the trial, and whether what is written is right: else something was found late that has
        to be known before.
    """
    trial = pickles.Trial()
    trial.exact = False
    hands = devices.Hands(named=frozenset(id(entry.value) for entry in entries))
    stream = _Stream(writer, hands)
    trial.reach = stream.pickler.reach
    with process.quiet():
        for entry, failed in stream.put(entries):
            if failed is None:
                trial.good.append(entry)
                continue
            trial.lost.append(failed)
            if not stream.take_back():
                return pickles.try_all(entries), False
    trial.views = hands.views()
    if hands.guessed(trial.views):
        return trial, True
    # What another one has brought along may be held by itself, too: that is not seen here.
    return pickles.try_all(entries), False


def save_all(trial, writer):
    """Pickle what was found good. What the writer raises comes through.

    Returns
    -------
    tuple: as in ``trial.lost``, of an entry that could not be pickled this time; else None.
    """
    stream = _Stream(writer, devices.Hands(views=trial.views))
    with process.quiet():
        for _, failed in stream.put(trial.good):
            if failed is not None:
                return failed
    return None


class _Stream:
    """The pickles of a snapshot, each of a dict with names and values.

    Plain variables in a row have one for all: to read it runs no code, and does not fail. All
    others have one each. A tuple is around each dict, whose number in an unpickler's memory is the
    last one of it.
    """

    def __init__(self, writer, hands):
        self._writer = writer
        self._parts = []  # type: list[bytes]  # of the pickle at hand
        self._size = 0
        self._place = None  # type: Any  # before it, where some of it is written already
        self._first = None  # type: Any  # what is first in the pickler's memory of it
        output = pickles._Output(self._pickled, _passing(self._buffer), hands)
        self.pickler = pickles._saver(output, hands)
        self.pickler.start()
        self._done()

    def put(self, entries):
        """Pickle the entries; each with None, or why it cannot be, as in the ``lost`` of a trial.

        They come in the order in which they are written.
        """
        run = []  # type: list[Any]
        for entry in entries:
            interrupts.check()
            if _may_be_plain(entry):
                run.append(entry)
                if len(run) == _LONGEST_RUN:
                    yield from self._put_run(run)
                    run = []
            else:
                yield from self._put_run(run)
                run = []
                yield entry, self._put_one(entry)
        yield from self._put_run(run)

    def _put_run(self, run):
        """Of entries that may be plain."""
        if len(run) == 1:
            yield run[0], self._put_one(run[0])
        elif run and not _are_plain([entry.value for entry in run]):
            half = len(run) // 2  # most of them are, mostly
            yield from self._put_run(run[:half])
            yield from self._put_run(run[half:])
        elif run:
            try:
                self._pickle({entry.name: entry.value for entry in run})
            except _Stop as stop:
                raise stop.error from None
            self._done()
            for entry in run:
                yield entry, None

    def _put_one(self, entry):
        if kind_of(entry.value):
            return (entry, *pickles._reasons(entry, None, Lost()))
        self.pickler.last = None
        try:
            self._pickle({entry.name: entry.value})
        except KeyboardInterrupt:
            raise
        except _Stop as stop:
            raise stop.error from None
        except BaseException as error:
            return (entry, *pickles._reasons(entry, self.pickler.last, error))
        self._done()
        return None

    def _pickle(self, rows):
        self._first = rows
        self.pickler.dump_plainly((rows,))

    def take_back(self):
        """Have the entry that failed count as never seen; false where that would take long."""
        if self._first is None:  # it was not begun
            return True
        if self._writer.written > pickles._ROLLBACK:
            return False
        if self._place is not None:
            self._writer.back(self._place)
        self.pickler.forget_since(self._first)
        self._parts = []
        self._done()
        return True

    def _pickled(self, data):
        self._parts.append(data)
        self._size += len(data)
        if self._size > _LONG:
            try:
                self._open()
            except Exception as error:
                raise _Stop(error) from error

    def _buffer(self, view):
        self._open()
        self._writer.buffer(view)

    def _open(self):
        """What is at hand is long: its place is noted, and it is begun to be written."""
        if self._place is None:
            self._place = self._writer.place() if self._writer.takes_back else ()
        self._write_parts()

    def _write_parts(self):
        parts, self._parts = self._parts, []
        for part in parts:
            self._writer.pickled(part)

    def _done(self):
        self._write_parts()
        self._size, self._place, self._first = 0, None, None


def _may_be_plain(entry):
    group, name, value = entry
    cls = type(value)
    return (
        group in pickles.VARIABLES
        and type(name) is str
        and (cls in _LEAVES or (cls in _CONTAINERS and len(value) <= _LONGEST_RUN))
    )


def _are_plain(values):
    """Whether all that the values hold is plain, as far as that is seen quickly."""
    for _ in range(_DEEPEST):
        found = set(map(type, values))
        if not found <= _PLAIN:
            return False
        if found <= _LEAVES:
            return True
        values = gc.get_referents(*values)
        if len(values) > _MOST:
            return False
    return False


class _Stop(BaseException):
    """Carries an error of whoever takes the data through the pickler."""

    def __init__(self, error):
        super().__init__()
        self.error = error


def _passing(function):
    """The function, whose errors are no variable's fault."""

    def call(data):
        try:
            return function(data)
        except Exception as error:
            raise _Stop(error) from error

    return call
