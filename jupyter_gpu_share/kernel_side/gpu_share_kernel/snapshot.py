"""Saves the variables of a kernel to a file, and brings them back in another kernel.

::

    from gpu_share_kernel import snapshot

    snapshot.survey()        # what a save would keep, and what not; nothing is written
    snapshot.save(path)
    snapshot.restore(path)   # in a new kernel, before its first cell

Called on the kernel's main thread while no cell runs. All of them answer with plain data, whatever
the variables are and do; what cannot be done at all is a :class:`Refused` with a sentence.

A snapshot is code of the user's own: it may be loaded only into a kernel of the same user, from
where nobody else can write.
"""

import collections
import contextlib
import os
import sys
import tempfile
import time

from gpu_share_kernel import (
    devices,
    interrupts,
    owned,
    pickles,
    proof,
    records,
    session,
    settings,
    unpickles,
)
from gpu_share_kernel.kinds import called

__all__ = ["Refused", "receive", "restore", "save", "survey", "write"]

#: How often a variable may turn out differently from the trial before.
_ATTEMPTS = 5
_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
#: What a user is told of at most, one by one, and how much of why: the whole list is elsewhere.
_NAMED, _WHY = 5, 80
#: Groups of entries that are variables of the namespace.
_VARIABLES = ("user", "start", "named")
#: Groups of entries that a user misses.
_MISSED = ("user", "named", "output", "setting")


class Refused(Exception):  # noqa: N818 - a decision, told to the user
    """Nothing was saved, or nothing restored; the text is a sentence."""


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
        trial = _tried(entries)
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


def _tried(entries):
    """The trial of the entries, and what would stop besides."""
    trial = pickles.try_all(entries)
    for name, what, why in session.stopping():
        trial.lost.append((session.Entry("setting", name, None), what, why))
    return trial


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
            with open(os.open(partial, flags, 0o600), "wb") as file:
                manifest, entries = _write(file.write, limit, allowed, without)
                file.flush()
                os.fsync(file.fileno())
            try:
                lost = [] if end is None else _prove(partial, entries, end)
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
        raise Refused("The snapshot cannot be written: %s." % _strerror(error)) from error
    return manifest, []


def _prove(path, entries, end):
    try:
        lost = proof.prove(path, entries, end - time.monotonic())
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
            "name": _named(entry.group, entry.name),
            "what": what,
            "why": why,
            "missed": id(entry) in missed,
        }
        for entry, what, why in lost
    ]


def write(sink, limit=None, allowed=None):
    """The same into ``sink``, which is called with chunks (bytes-like, at most 8 MiB).

    A chunk is valid during the call only. What ``sink`` raises comes through.
    """
    return _write(sink, limit, allowed, ())[0]


def _write(sink, limit, allowed, without):
    """The manifest, and the entries in the order of the file."""
    try:
        cloudpickle = pickles.cloudpickle()
    except pickles.NoCloudpickle as error:
        raise Refused("The variables cannot be saved: %s" % error) from error
    around = session.surroundings()
    trial = _tried(session.entries())
    around["modules"] = trial.reach.told()
    _leave_out(trial, without)
    if limit is not None and trial.exact and trial.size > limit:
        raise _too_much(limit, trial.size)
    try:
        writer = records.Writer(sink, limit)
        for attempt in range(_ATTEMPTS):
            if attempt:
                writer.restart()
            _check_allowed(trial, allowed)
            manifest = {
                "variables": _users(trial.good),
                "names": [entry.name for entry in trial.good if entry.group == "user"],
                "lost": _lost(trial),
                "outputs_lost": [e.name for e, _, _ in trial.lost if e.group == "output"],
                "versions": session.versions(cloudpickle),
            }
            entries = [[entry.group, entry.name] for entry in trial.good]
            writer.header({"manifest": manifest, "entries": entries, "around": around})
            failed = pickles.save_all(trial, writer.pickled, writer.buffer)
            if failed is None:
                writer.end()
                manifest["bytes"], manifest["digest"] = writer.written, writer.digest
                return manifest, trial.good
            trial.good = [entry for entry in trial.good if entry is not failed[0]]
            trial.lost.append(failed)
    except records.Full:
        raise _too_much(limit, None) from None
    raise Refused(
        "The variables cannot be saved: they change while they are looked at, as with `%s`: %s."
        % (failed[0].name, failed[2])
    )


def _leave_out(trial, without):
    """Have what a proof has told of count as what cannot be saved."""
    rows = {(row["group"], row["name"]): row for row in without}
    tried, trial.good = trial.good, []
    for entry in tried:
        row = rows.get((entry.group, _named(entry.group, entry.name)))
        if row is None:
            trial.good.append(entry)
        else:
            trial.lost.append((entry, row["what"], row["why"]))
            trial.exact = False


def restore(path, digest=None):
    """Bring back the variables of a snapshot, in the same version of Python.

    A variable that cannot be brought back is left out; all others come back, with what they share.

    Parameters
    ----------
    digest: that :func:`save` told. Nothing of a file with another one is brought back, or run.

    Returns
    -------
    dict: ``line`` (what came back, for the user), ``restored`` (number of variables), ``failed``
        (a list of ``name`` and ``why``), ``manifest`` of the snapshot.

    Raises
    ------
    Refused: the file is damaged, or of another version. The namespace is as it was.
    """
    try:
        with open(path, "rb") as file:
            return _restore(file, digest)
    except records.Damaged as error:
        raise Refused("The snapshot is damaged: %s." % error) from error
    except OSError as error:
        raise Refused("The snapshot cannot be read: %s." % _strerror(error)) from error


def receive(data, last=False, first=False):
    """Restore from a snapshot that arrives in pieces, in order.

    Parameters
    ----------
    data: bytes.
    last: with the last piece: restore.
    first: with the first piece: what arrived before is forgotten.

    Returns
    -------
    dict: ``received``, the bytes that have arrived; with the last piece what :func:`restore` does.

    Raises
    ------
    Refused: as :func:`restore`, or the pieces cannot be stored here. Nothing of them is left.
    """
    global _arrival
    try:
        if first and _arrival is not None:
            _arrival.close()
        if first or _arrival is None:
            _arrival = _Arrival()
        _arrival.file.write(data)
        if not last:
            return {"received": _arrival.file.tell()}
        _arrival.file.flush()
        return restore(_arrival.path)
    except OSError as error:
        last = True
        raise Refused("The snapshot cannot be stored here: %s." % _strerror(error)) from error
    finally:
        if last and _arrival is not None:
            _arrival.close()
            _arrival = None


class _Arrival:
    """The file of a snapshot of which pieces arrive."""

    def __init__(self):
        number, self.path = tempfile.mkstemp(prefix="gpu-share-", suffix=".kept")
        self.file = os.fdopen(number, "wb")

    def close(self):
        self.file.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


_arrival = None  # type: _Arrival | None


def _restore(file, digest):
    try:
        cloudpickle = pickles.cloudpickle()
    except pickles.NoCloudpickle as error:
        raise Refused("The variables cannot be restored: %s" % error) from error
    size = os.fstat(file.fileno()).st_size
    reader = records.Reader(file, digest)
    manifest, around = reader.header["manifest"], reader.header["around"]
    _check_versions(manifest["versions"], session.versions(cloudpickle))
    here = session.shell()
    devices.notes()
    undo = _Undo(here)
    try:
        loaded, failed = load(reader, here)
        undo.builtins()
        restored, more = _settle(loaded, here)
        here.execution_count = around["count"]
    except BaseException:
        undo.all()
        raise
    finally:
        undo.close()
    rows = [{"name": name, "why": why} for name, why in failed + more]
    return {
        "line": _line(restored, size, manifest["lost"], rows),
        "restored": restored,
        "failed": rows,
        "manifest": manifest,
    }


def load(reader, here):
    """All that a snapshot has, and what of its surroundings could not be brought back.

    It is what comes back: used to bring it back, and to prove that it would.

    Returns
    -------
    tuple: for each entry its ``entry`` (group and name), ``value``, and ``why`` that is not whole,
        or None; and a list of (name, why).

    Raises
    ------
    records.Damaged
    """
    header, around = reader.header, reader.header["around"]
    failed = session.surround(around)
    failed += session.extend(around["extensions"])
    failed += settings.restore(around.get("settings", {}), here)
    loaded = _load(unpickles.Loader(reader), header["entries"], here)
    reader.end()
    return loaded, failed


#: An entry (group and name), its value, and why that is not whole, or None.
_Loaded = collections.namedtuple("_Loaded", "entry value why")  # noqa: PYI024 - no types here


def _load(loader, entries, here):
    """All values with their entries, and why they are not whole.

    Variables are there as soon as they are loaded: what is loaded next may need them.
    """
    values = []
    for group, name in entries:
        values.append(loader.next())
        if group in _VARIABLES:
            here.user_ns[name] = values[-1]
        elif group == "first" and not loader.failed:
            session.put(name, values[-1])
    return list(map(_Loaded, entries, values, unpickles.damage(values, loader)))


def _settle(loaded, here):
    """Put what is whole where it belongs. The number of variables, and what failed."""
    restored, failed, hidden = 0, [], {}
    for (group, name), value, why in loaded:
        if why and group in _VARIABLES:
            del here.user_ns[name]
        if why:
            failed.append((_named(group, name), why))
        elif group == "user":
            restored += 1
            here.user_ns_hidden.pop(name, None)
        elif group == "start":
            here.user_ns_hidden[name] = value
        elif group == "output":
            here.history_manager.output_hist[name] = value
        elif group == "hidden":
            hidden[name] = value
        elif group in ("module", "setting", "state"):
            try:
                if group == "state":
                    session.put(name, value)
                elif group == "module":
                    owned.put(name, value)
                else:
                    settings.put(name, value, here)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failed.append((name, "%s: %s" % (type(error).__name__, error)))
    for name in ("_", "__", "___"):
        if name in hidden:
            setattr(here.displayhook, name, hidden[name])
    here.push(hidden, interactive=False)
    return restored, failed


class _Undo:
    """Takes back what a restore has done."""

    def __init__(self, here):
        self._shell = here
        self._names = dict(here.user_ns)
        self._hidden = dict(here.user_ns_hidden)
        self._environment = dict(os.environ)
        self._path, self._finders = list(sys.path), list(sys.meta_path)
        try:
            self._folder = os.open(".", os.O_RDONLY)  # type: int | None
        except OSError:  # it was removed
            self._folder = None

    def builtins(self):
        """cloudpickle puts its own into the globals of every function."""
        self._shell.user_ns["__builtins__"] = self._names["__builtins__"]

    def all(self):
        self._shell.user_ns.clear()
        self._shell.user_ns.update(self._names)
        self._shell.user_ns_hidden.clear()
        self._shell.user_ns_hidden.update(self._hidden)
        os.environ.clear()
        os.environ.update(self._environment)
        sys.path[:], sys.meta_path[:] = self._path, self._finders
        if self._folder is not None:
            os.fchdir(self._folder)

    def close(self):
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


# -- in words --------------------------------------------------------------------------------------


def _check_versions(then, now):
    if then["implementation"] != now["implementation"] or _short(then) != _short(now):
        raise Refused(
            "The snapshot is of Python %s, and this kernel runs %s: variables can only be brought "
            "back in the same version." % (_short(then), _short(now))
        )


def _short(versions):
    return ".".join(versions["python"].split(".")[:2])


def _check_allowed(trial, allowed):
    more = [row["name"] for row in _lost(trial) if allowed is not None]
    more = [name for name in more if name not in allowed]
    if more:
        raise Refused("The variables are not saved: %s would be lost." % _listed(more, "`%s`"))


def _too_much(limit, size):
    much = "more than %s" % _amount(limit) if size is None else _amount(size)
    return Refused("The variables take %s; at most %s are kept here." % (much, _amount(limit)))


def _users(entries):
    return sum(entry.group == "user" for entry in entries)


def _lost(trial):
    return [
        {"name": _named(entry.group, entry.name), "what": what, "why": why}
        for entry, what, why in _missed(trial.lost)
    ]


def _missed(lost):
    """Of what is lost, what its user misses; what a cell has shown of a variable counts once."""
    variables = {id(entry.value) for entry, _, _ in lost if entry.group in _VARIABLES}
    return [
        row
        for row in lost
        if row[0].group in _MISSED
        and not (row[0].group == "output" and id(row[0].value) in variables)
    ]


def _named(group, name):
    """What the user calls an entry."""
    return "Out[%s]" % name if group == "output" else name


def _line(restored, size, lost, failed):
    """One line for the user about what came back."""
    one = restored == 1
    line = "%d variable%s back (%s)" % (restored, " is" if one else "s are", _amount(size))
    if lost:
        line += "; not kept: " + _listed([(row["what"], row["name"]) for row in lost], "%s `%s`")
    if failed:
        rows = [(row["name"], _start_of(row["why"])) for row in failed]
        line += "; not restored: " + _listed(rows, "`%s` (%s)")
    return "; ".join([line, *devices.notes()]) + "."


def _listed(rows, form):
    told = [form % row for row in rows[:_NAMED]]
    if len(rows) > _NAMED:
        told.append("%d more" % (len(rows) - _NAMED))
    return ", ".join(told)


def _start_of(text):
    return text if len(text) <= _WHY else text[: _WHY - 1] + "…"


def _amount(size):
    for unit, name in _UNITS:
        if size >= unit:
            return "%.3g %s" % (size / unit, name)
    return "%d B" % size


def _strerror(error):
    return error.strerror or str(error) or type(error).__name__


def _sync_folder(folder):
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
