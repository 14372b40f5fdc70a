"""Proves that a snapshot brings back what was saved, while the process that has it still lives.

A fresh process of the same interpreter reads the file as the next kernel would. It and the kernel
make fingerprints of each variable (:mod:`~gpu_share_kernel.snapshot.prints`), which have to be
equal. What does not come back, or comes back as something else, is told.

The fresh process has no GPU, gives way to all others, is the first to be ended where memory is
short, and is ended with the kernel. Of a user's code it runs what rebuilds the variables.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import cuda_signs, interrupts
from gpu_share_kernel.snapshot import prints, records, session, shells
from gpu_share_kernel.snapshot.kinds import article, called

__all__ = ["Reader", "Slow", "Unproven", "endanger_nobody", "main", "prove"]

_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import sys; sys.path.insert(0, {folder!r}); from gpu_share_kernel.snapshot import proof; "
    "sys.path.remove({folder!r}); proof.main({numbers!r})"
)
#: Of the environment: what would give the fresh process a GPU, or limits of one.
_OF_GPUS = ("JUPYTER_GPU_SHARE_UUID", "NVIDIA_VISIBLE_DEVICES")
_NO_GPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}
#: Of the memory that is free, the fresh process may have so much.
_PART = 0.8
#: Seconds between two looks at the memory that it takes.
_WATCHED = 0.1
_CHANGED = "it comes back as something else"
_TOO_LITTLE = "There is too little memory to read them back and see that all of it returns."
_PR_SET_PDEATHSIG = 1


class Unproven(Exception):  # noqa: N818 - a finding, told to the user
    """It cannot be known whether the file brings everything back; the text is a sentence."""


class Slow(Exception):  # noqa: N818 - a finding
    """It takes longer than it may."""


def prove(reader, entries, seconds):
    """Read a snapshot in a fresh process, and compare what comes back with what was saved.

    Parameters
    ----------
    reader: the :class:`Reader` of the file, which is written by now.
    entries: of :func:`~gpu_share_kernel.snapshot.session.entries`, all of the file, in its order.
    seconds: that it may take.

    Returns
    -------
    list: (entry, what it is, why it does not come back), both in words.

    Raises
    ------
    Slow: the time does not suffice.
    Unproven: the memory does not suffice, or the fresh process has ended.
    KeyboardInterrupt: an interrupt came that may cut this short.
    """
    reader.begin(seconds)
    whole = dict(enumerate(entries))
    # Both sides work at the same time.
    own = _exactly(reader, whole)
    lost = dict(reader.next()["broken"])
    for index in lost:
        del whole[index]
    changed = set()  # type: set[int]
    if reader.next()["exact"] != (_exactly(reader, whole) if lost else own) or not own:
        reader.order("texts")
        changed = _changed(reader, prints.Prints(), whole)
    if changed:
        reader.order("lenient")
        changed &= _changed(reader, prints.Prints(lenient=True), whole)
    # A state of the session, such as the history, is better than none.
    changed = {index for index in changed if whole[index].group != "state"}
    lost.update(dict.fromkeys(changed, _CHANGED))
    rows = []
    for index in sorted(lost):
        entry = entries[index]
        what = called(entry.value)
        rows.append((entry, what, "%s cannot be brought back: %s" % (article(what), lost[index])))
    return rows


def _exactly(reader, whole):
    def values():
        for entry in whole.values():
            interrupts.check()
            reader.check()
            yield entry.value

    return prints.Prints(exact=True).of_all(values())


def _changed(reader, mine, whole):
    """Indices of the entries whose fingerprints are others in the fresh process."""
    changed = set()
    for index, entry in whole.items():
        if not _same(reader, mine, index, entry):
            changed.add(index)
            mine.back()
            reader.order(index)
    return changed


def _same(reader, mine, index, entry):
    interrupts.check()
    try:
        own = mine.next(entry.value)
    except KeyboardInterrupt:
        raise
    except Exception:  # it changes while it is looked at
        own = None
    return reader.print_of(index) == own


class Reader:
    """The fresh process, from the side of the kernel. It waits until it is told to begin.

    Parameters
    ----------
    path: of the file, which is still to be written.
    """

    def __init__(self, path):
        self._end = 0.0
        self._lines = b""
        self._process = None  # type: Any
        self._pipes = []
        self._failed = None  # type: Any
        try:
            self._start(path)
        except (OSError, ValueError) as error:  # told when it is to begin
            self.close()
            self._failed = error
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def begin(self, seconds):
        """Have it read the file.

        Raises
        ------
        Unproven: it could not be started.
        """
        if self._failed is not None:
            raise Unproven(
                "No process could be started to read them back: %s." % self._failed
            ) from self._failed
        self._end = time.monotonic() + seconds
        self._send({"memory": _memory()})

    def _start(self, path):
        orders, self._orders = self._pipe()
        self._answers, answers = self._pipe()
        file = os.open(path, os.O_RDONLY)
        self._pipes.append(file)
        numbers = (file, orders, answers)
        code = _START.format(folder=_FOLDER, numbers=numbers)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=numbers,
            env=_environment(),
        )
        for number in numbers:
            self._pipes.remove(number)
            os.close(number)

    def _pipe(self):
        pair = os.pipe()
        self._pipes += pair
        return pair

    def check(self):
        """Raises :class:`Slow` where the time is over."""
        if time.monotonic() > self._end:
            raise Slow

    def next(self):
        """What it tells next.

        Raises
        ------
        Slow, Unproven
        """
        while b"\n" not in self._lines:
            left = self._end - time.monotonic()
            ready = select.select([self._answers], [], [], max(0.0, left))[0]
            interrupts.check()
            if not ready:
                raise Slow
            data = os.read(self._answers, 2**16)
            if not data:
                raise Unproven(self._why_ended())
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        told = json.loads(line.decode())
        if "why" in told:
            raise Unproven(told["why"])
        return told

    def print_of(self, index):
        """The fingerprint of an entry."""
        told = self.next()
        while told.get("index") != index:  # of what was to count as never seen
            told = self.next()
        return told["print"]

    def order(self, what):
        """Have an entry count as never seen, and all after it told anew; or all, ``"texts"`` or
        ``"lenient"``.
        """
        self._send(what)
        while self.next().get("done", self) != what:
            pass

    def _send(self, what):
        try:
            os.write(self._orders, json.dumps(what).encode() + b"\n")
        except OSError:
            raise Unproven(self._why_ended()) from None

    def _why_ended(self):
        code = self._process.wait()
        how = "with exit code %d" % code
        if code < 0:
            how = "by signal %d" % -code
        return (
            "The process that reads them back has ended %s; there may be too little memory for it."
            % how
        )

    def close(self):
        """End it."""
        try:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        finally:
            for number in self._pipes:
                os.close(number)
            self._pipes = []


def _environment():
    """What the next kernel would be started with, without a GPU."""
    first = session._first_environment()
    env = dict(os.environ if first is None else first)
    for name in _OF_GPUS:
        env.pop(name, None)
    env.update(_NO_GPU)
    return env


def _memory():
    """Bytes that the fresh process may take; None where nothing is known."""
    free = cuda_signs.host_memory()
    return None if free is None else int(free * _PART)


# -- the fresh process -----------------------------------------------------------------------------


def main(numbers):
    """Read the file, say what is not whole, and make fingerprints of the rest; never returns.

    Parameters
    ----------
    numbers: descriptors of the file, of orders to read, of answers to write.
    """
    file, orders, answers = numbers
    code = 1
    try:
        endanger_nobody()
        asyncio.new_event_loop().run_until_complete(_serve(file, orders, answers))
        code = 0
    finally:
        os._exit(code)  # nothing of what was loaded is to end in its own way


def endanger_nobody():
    """Give way to all others, and end with the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the kernel's, which ends this process
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with contextlib.suppress(OSError):
        os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def _serve(number, orders, answers):
    """Within a loop that runs, as in a kernel."""
    lock = threading.Lock()

    def say(**told):
        data = json.dumps(told).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(answers, data) :]

    try:
        with os.fdopen(number, "rb") as file:
            here = shells.without_files()  # type: Any
            here.kernel = _Kernel()
            begin = _line(orders)
            if not begin:
                return
            memory = json.loads(begin.decode())["memory"]
            if memory is not None:
                _limit(memory, os.fstat(number).st_size, say)
            loaded = _loaded(file, here)
            broken = [[n, row.why] for n, row in enumerate(loaded) if row.why]
            if any("MemoryError" in why for _, why in broken):
                raise MemoryError
            say(broken=broken)
            _tell_prints(loaded, say, orders)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        say(why=_TOO_LITTLE)
    except MemoryError:
        say(why=_TOO_LITTLE)
    except records.Damaged as error:
        say(why="What was written cannot be read back: %s." % error)


def _limit(memory, mapped, say):
    """Take no more memory than so many bytes.

    The file's own content counts for the system, too, where it might be changed. It takes memory
    only where it is changed, which is watched.
    """

    def watch():
        while True:
            with open("/proc/self/status") as lines:
                taken = [int(row.split()[1]) for row in lines if row.startswith("RssAnon:")]
            if taken and taken[0] * 1024 > memory:
                say(why=_TOO_LITTLE)
                os._exit(0)
            time.sleep(_WATCHED)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory + mapped, memory + mapped))


def _loaded(file, here):
    from gpu_share_kernel import simulated
    from gpu_share_kernel.snapshot import devices, hooks, pickles, restoring

    devices._cupy_array = simulated._taken_anew = prints.Away
    prints.note_classes(pickles.cloudpickle())
    loaded = restoring.load(records.Reader(file, mapped=True), here)[0]
    gc.disable()  # all of it stays until the end
    for row in loaded:  # a fingerprint is a pickle
        group, name = row.entry
        if group == "setting" and str(name).startswith(hooks.PICKLING) and not row.why:
            hooks.put(name, row.value, here)
    return loaded


class _Kernel:
    """Stands for the kernel, which is never pickled but as the kernel that there is."""


def _tell_prints(loaded, say, orders):
    whole = {index: row for index, row in enumerate(loaded) if not row.why}
    say(exact=prints.Prints(exact=True).of_all(row.value for row in whole.values()))
    made = prints.Prints()
    marks = []  # indices whose fingerprints were made, in order
    todo = list(whole)
    at = len(todo)  # nothing before it is ordered
    while True:
        while at < len(todo) and not select.select([orders], [], [], 0)[0]:
            index = todo[at]
            marks.append(index)
            try:
                found = made.next(whole[index].value)
            except MemoryError:
                raise
            except Exception:
                found = ""
            say(index=index, print=found)
            at += 1
        line = _line(orders)
        if not line:
            return
        order = json.loads(line.decode())
        if order in ("texts", "lenient"):
            made, marks, at = prints.Prints(lenient=order == "lenient"), [], 0
        else:
            count = len(marks) - marks.index(order)
            del marks[-count:]
            made.back(count)
            at = todo.index(order) + 1
        say(done=order)


def _line(number):
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(number, 1)
        if not data:
            return b""
        line += data
    return line
