"""Looks at what a snapshot would keep, and writes one."""

import contextlib
import ctypes
import itertools
import operator
import os
import time
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import interrupts
from gpu_share_kernel.snapshot import pickles, proof, records, session, shells, streams
from gpu_share_kernel.snapshot.kinds import called
from gpu_share_kernel.snapshot.pickles import VARIABLES
from gpu_share_kernel.snapshot.words import Refused, amount, listed, named, strerror

__all__ = ["save", "survey", "write"]

#: How often a variable may turn out differently from the trial before.
_ATTEMPTS = 5
#: Groups of entries that a user misses.
_MISSED = ("user", "named", "output", "setting")
#: Bytes after which the system is asked to begin with the disk, and how.
_EARLY, _SYNC_WRITE = 32 * 2**20, 2


@shells.lent()
def survey():
    """What a save would keep. Nothing is written, and no large data is copied.

    Returns
    -------
    dict: ``variables`` (number of those that can be saved), ``bytes`` (about, of the whole file),
        ``lost`` (a list of ``name``, ``what`` it is, and ``why`` as a sentence), ``seconds`` that
        the look took; ``why``, a sentence where nothing at all can be saved, else empty.
    """
    start = time.monotonic()
    entries = session.entries()
    try:
        trial = pickles.try_all(entries)
        _tell_of_work(trial)
    except pickles.NoCloudpickle as error:
        users = [entry for entry in entries if entry.group in ("user", "setting")]
        trial = pickles.Trial()
        trial.lost = [(entry, called(entry.value), str(error)) for entry in users]
        why = "The variables cannot be saved: %s" % error
    else:
        why = ""
    return {
        "variables": _users(trial.good),
        "bytes": trial.size,
        "lost": _lost(trial),
        "seconds": round(time.monotonic() - start, 3),
        "why": why,
    }


def _tell_of_work(trial):
    """Have what would stop besides count as lost."""
    for name, what, why in session.stopping():
        trial.lost.append((session.Entry("setting", name, None), what, why))


@shells.lent()
def save(path, limit=None, allowed=None, seconds=None, without=(), lose=True, certain=True):
    """Write the variables to a file, which is there complete or not at all.

    Parameters
    ----------
    limit: bytes that the file may have.
    allowed: names that may be lost; None: any.
    seconds: for the proof that the file brings back what was saved; None: without one.
    without: what earlier proofs have told of as lost, in the shape of ``disproved``.
    lose: what the proof finds may be lost; else only what is ``allowed``.
    certain: nothing is saved where the proof cannot be made; else it is, with ``unproven``, why.

    Returns
    -------
    dict: the manifest: ``variables``, ``bytes``, ``lost`` as in :func:`survey`, ``names`` of what
        was saved, ``outputs_lost`` (numbers of the entries of Out that were not), ``versions``,
        ``digest`` (SHA-256 of the file, in hexadecimal digits).
        Also ``disproved``: of what would not come back ``group``, ``name``, ``what`` and ``why``,
        and whether it is ``missed`` by the user.
        Where that may not be lost, there is nothing but ``disproved``, and no file.

    Raises
    ------
    Refused: more than ``limit`` bytes, more lost than ``allowed``, no cloudpickle, the file cannot
        be written, or not be proven. What was at ``path`` before is still there.
    """
    disproved = [dict(row) for row in without]
    end = None if seconds is None else time.monotonic() + seconds
    for _ in range(_ATTEMPTS):
        manifest, found = _save(path, limit, allowed, disproved, end, certain)
        disproved += found
        if manifest is not None:
            manifest["disproved"] = disproved
            return manifest
        missed = {row["name"] for row in found if row["missed"]}
        if missed and not lose:
            return {"disproved": disproved}
        if allowed is not None:
            allowed = [*allowed, *missed]
    raise Refused("The variables cannot be saved: each time others of them do not come back.")


def _save(path, limit, allowed, without, end, certain):
    """Write and prove a file. The manifest or None, and what would not come back."""
    partial = "%s.%d.part" % (path, os.getpid())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # nor through a link
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)  # of a save that was cut off
        try:
            # An interrupt between the call that makes the file and the next line leaves it, too.
            with open(os.open(partial, flags, 0o600), "wb") as file, contextlib.ExitStack() as left:
                # It starts while the file is written.
                reader = None if end is None else left.enter_context(proof.Reader(partial))
                sink = _Sink(file)
                manifest, entries = _write(sink.write, limit, allowed, without, sink.cut)
                file.flush()
                os.fsync(file.fileno())
                try:
                    lost = [] if reader is None else _prove(reader, entries, end)
                except Refused as error:
                    if certain:
                        raise
                    lost, manifest["unproven"] = [], str(error)
            if lost:
                os.unlink(partial)
                return None, lost
            interrupts.commit()
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        _sync_folder(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise Refused("The snapshot cannot be written: %s." % strerror(error)) from error
    return manifest, []


def _prove(reader, entries, end):
    try:
        lost = proof.prove(reader, entries, end - time.monotonic())
    except proof.Slow as error:
        raise Refused(
            "Reading them back, to see that all of it returns, takes longer than it may "
            "(c.IdlePolicy.snapshot_patience)."
        ) from error
    except proof.Unproven as error:
        raise Refused(str(error)) from error
    missed = {id(row[0]) for row in _missed(lost)}
    return [
        {
            "group": entry.group,
            "name": named(entry.group, entry.name),
            "what": what,
            "why": why,
            "missed": id(entry) in missed,
        }
        for entry, what, why in lost
    ]


@shells.lent()
def write(sink, limit=None, allowed=None):
    """The same into ``sink``, which is called with chunks (bytes-like, at most 8 MiB).

    A chunk is valid during the call only. What ``sink`` raises comes through.
    """
    return _write(sink, limit, allowed, ())[0]


def _write(sink, limit, allowed, without, cut=None):
    """The manifest, and the entries in the order of the file.

    Where what was written can be taken back, all goes to the file at once, and what cannot be saved
    is taken back; else it is looked at before.
    """
    try:
        cloudpickle = pickles.cloudpickle()
    except pickles.NoCloudpickle as error:
        raise Refused("The variables cannot be saved: %s" % error) from error
    around = session.surroundings()
    entries, left_out = _without(session.entries(), without)
    trial, written = None, False  # type: tuple[Any, bool]
    writer = records.Writer(sink, limit, cut)
    if cut is not None:
        begin = writer.place()
        with contextlib.suppress(records.Full):  # how much more is told below
            trial, written = streams.save_at_once(entries, writer)
        if not written:
            writer.back(begin)
    try:
        if not written:
            trial = _write_again(entries, trial, writer, limit)
        _tell_of_work(trial)
        trial.lost += left_out
        around["modules"] = trial.reach.told()
        _check_allowed(trial, allowed)
        manifest = {
            "variables": _users(trial.good),
            "names": [entry.name for entry in trial.good if entry.group == "user"],
            "lost": _lost(trial),
            "outputs_lost": [e.name for e, _, _ in trial.lost if e.group == "output"],
            "versions": session.versions(cloudpickle),
        }
        kept = {key: value for key, value in manifest.items() if key != "names"}
        rows = [
            [group, [entry.name for entry in rows]]
            for group, rows in itertools.groupby(trial.good, _group_of)
        ]
        writer.header({"manifest": kept, "entries": rows, "around": around})
        writer.end()
    except records.Full:
        raise _too_much(limit, None) from None
    manifest["bytes"], manifest["digest"] = writer.written, writer.digest
    return manifest, trial.good


_group_of = operator.attrgetter("group")


def _write_again(entries, trial, writer, limit):
    """Write what a trial finds good, and what the trial was in the end."""
    if trial is None:
        trial = pickles.try_all(entries)
    if limit is not None and trial.exact and trial.size > limit:
        raise _too_much(limit, trial.size)
    begin = writer.place() if writer.takes_back else None
    for _ in range(_ATTEMPTS):
        failed = streams.save_all(trial, writer)
        if failed is None:
            return trial
        trial.good = [entry for entry in trial.good if entry is not failed[0]]
        trial.lost.append(failed)
        if begin is None:
            writer.restart()
        else:
            writer.back(begin)
    raise Refused(
        "The variables cannot be saved: they change while they are looked at, as with `%s`: %s."
        % (failed[0].name, failed[2])
    )


def _without(entries, without):
    """The entries but what a proof has told of, and that as what cannot be saved."""
    rows = {(row["group"], row["name"]): row for row in without}
    left, out = [], []
    for entry in entries if rows else ():
        row = rows.get((entry.group, named(entry.group, entry.name)))
        if row is None:
            left.append(entry)
        else:
            out.append((entry, row["what"], row["why"]))
    return (left if rows else entries), out


class _Sink:
    """Writes to a file that is new, and has the system bring it to the disk meanwhile."""

    def __init__(self, file):
        self._file = file
        self._written = self._begun = 0
        self._begin = None  # type: Any
        with contextlib.suppress(OSError, AttributeError):  # where it is no Linux
            self._begin = ctypes.CDLL(None).sync_file_range
            self._begin.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def write(self, data):
        self._file.write(data)
        self._written += len(data)
        if self._begin is not None and self._written - self._begun >= _EARLY:
            self._file.flush()
            begun, self._begun = self._begun, self._written
            self._begin(self._file.fileno(), begun, self._begun - begun, _SYNC_WRITE)

    def cut(self, size):
        """Have the file end after so many bytes."""
        self._file.seek(size)
        self._file.truncate()
        self._written, self._begun = size, min(size, self._begun)


def _check_allowed(trial, allowed):
    more = [row["name"] for row in _lost(trial) if allowed is not None]
    more = [name for name in more if name not in allowed]
    if more:
        raise Refused("The variables are not saved: %s would be lost." % listed(more, "`%s`"))


def _too_much(limit, size):
    much = "more than %s" % amount(limit) if size is None else amount(size)
    return Refused("The variables take %s; at most %s are kept here." % (much, amount(limit)))


def _users(entries):
    return sum(entry.group == "user" for entry in entries)


def _lost(trial):
    return [
        {"name": named(entry.group, entry.name), "what": what, "why": why}
        for entry, what, why in _missed(trial.lost)
    ]


def _missed(lost):
    """Of what is lost, what its user misses; what a cell has shown of a variable counts once."""
    variables = {id(entry.value) for entry, _, _ in lost if entry.group in VARIABLES}
    return [
        row
        for row in lost
        if row[0].group in _MISSED
        and not (row[0].group == "output" and id(row[0].value) in variables)
    ]


def _sync_folder(folder):
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
