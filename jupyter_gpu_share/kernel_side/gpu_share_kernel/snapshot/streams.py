"""The pickles of a snapshot in a row, as they are written: in one pass where that is possible."""

from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import interrupts
from gpu_share_kernel.snapshot import devices, pickles
from gpu_share_kernel.snapshot.kinds import Lost, kind_of

__all__ = ["save_all", "save_at_once"]

#: Bytes of a variable's pickle that are kept until it is known to be one.
_LONG = 256 * 2**10
#: So many plain variables at most are read at once.
_LONGEST_RUN = 1000


def save_at_once(entries, writer):
    """Pickle the entries into the file, and take back what cannot be pickled.

    Parameters
    ----------
    writer: a :class:`~gpu_share_kernel.snapshot.records.Writer` that takes back. What it raises
        comes through.

    Returns
    -------
    tuple: the trial, and the ``runs`` of :func:`save_all`. These are None where the trial has found
        what has to be known before it begins; what was written is of no use then.
    """
    trial = pickles.Trial()
    hands = devices.Hands(named=frozenset(id(entry.value) for entry in entries))
    stream = _Stream(writer, hands)
    trial.reach = stream.pickler.reach
    with pickles._quiet():
        for entry in entries:
            interrupts.check()
            if kind_of(entry.value):
                trial.lost.append((entry, *pickles._reasons(entry, None, Lost())))
                continue
            failed = stream.put(entry)
            if failed is None:
                trial.good.append(entry)
                continue
            trial.lost.append(failed)
            if not stream.take_back():
                return pickles.try_all(entries), None
    runs = stream.end()
    trial.views = hands.views()
    return trial, runs if hands.guessed(trial.views) else None


def save_all(trial, writer):
    """Pickle what was found good. What the writer raises comes through.

    Returns
    -------
    tuple: as in ``trial.lost``, of an entry that could not be pickled this time, else None; and the
        ``runs``: of entries in a row how many are to be read at once, and where that is negative,
        how many one by one.
    """
    stream = _Stream(writer, devices.Hands(views=trial.views))
    with pickles._quiet():
        for entry in trial.good:
            interrupts.check()
            failed = stream.put(entry)
            if failed is not None:
                return failed, None
    return None, stream.end()


class _Stream:
    """The pickles of a snapshot, one for each entry: of a dict with its name and value.

    Beside it is an empty one, as in the state of an object that has no slots. Those of plain
    variables in a row become a single one, which makes each dict the attributes of what stands for
    the namespace as soon as it is read. To read others runs code, which may fail.
    """

    def __init__(self, writer, hands):
        self._writer = writer
        self._parts = []  # type: list[bytes]  # of the entry at hand
        self._size = 0
        self._place = None  # type: Any  # before it, where some of it is written already
        self._first = {}  # type: dict[Any, Any]
        self._no_slots = {}  # type: dict[Any, Any]
        self._run = []  # type: list[bytes]
        self._runs = []  # type: list[int]
        self.pickler = pickles._saver(
            pickles._Output(self._pickled, _passing(self._buffer), hands), hands
        )
        self.pickler.start()
        for part in self._parts:
            writer.pickled(part)
        self._next()

    def _next(self):
        self._parts, self._size, self._place = [], 0, None

    def put(self, entry):
        """Pickle an entry; why it cannot be, as in the ``lost`` of a trial, or None."""
        group, name, value = entry
        pickler = self.pickler
        pickler.last = None
        self._first = {name: value}
        try:
            pickler.dump_plainly((self._first, self._no_slots))
        except _Stop as stop:
            raise stop.error from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return (entry, *pickles._reasons(entry, pickler.last, error))
        if (
            pickler.last is None
            and self._place is None
            and group in pickles.VARIABLES
            and name != "__setstate__"
        ):
            parts = self._parts
            self._run.append(parts[0] if len(parts) == 1 else b"".join(parts))
            parts.clear()
            self._size = 0
            if len(self._run) == _LONGEST_RUN:
                self._end_run()
            return None
        if self._place is None:
            self._end_run()
        self._write_parts()
        self._next()
        if self._runs and self._runs[-1] < 0:
            self._runs[-1] -= 1
        else:
            self._runs.append(-1)
        return None

    def take_back(self):
        """Have the entry that failed count as never seen; false where that would take long."""
        if self._writer.written > pickles._ROLLBACK:
            return False
        if self._place is not None:
            self._writer.back(self._place)
        self._next()
        self.pickler.forget_since(self._first)
        return True

    def end(self):
        """Of entries in a row how many are read at once; where negative, how many one by one."""
        self._end_run()
        return self._runs

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
        """The entry at hand is long: all before it is written, its place noted, and it begun."""
        if self._place is None:
            self._end_run()
            self._place = self._writer.place() if self._writer.takes_back else ()
        self._write_parts()

    def _write_parts(self):
        parts, self._parts = self._parts, []
        for part in parts:
            self._writer.pickled(part)

    def _end_run(self):
        run, self._run = self._run, []
        if run:
            # BINGET of what stands for the namespace; BUILD instead of STOP but for the last.
            self._writer.pickled(b"h" + bytes([self.pickler.variables]))
            self._writer.pickled(b"b".join([each[:-1] for each in run]) + b".")
            self._runs.append(len(run))


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
