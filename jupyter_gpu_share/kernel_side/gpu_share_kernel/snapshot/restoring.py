"""Brings back what a snapshot has."""

import collections
import contextlib
import gc
import os
import stat
import sys
import tempfile
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel.snapshot import (
    devices,
    owned,
    pickles,
    records,
    session,
    settings,
    shells,
    unpickles,
)
from gpu_share_kernel.snapshot.pickles import VARIABLES
from gpu_share_kernel.snapshot.words import Refused, line, named, strerror

__all__ = ["load", "opened", "receive", "restore", "restored", "told"]


def restore(path, digest=None):
    """Bring back the variables of a snapshot, in the same version of Python.

    A variable that cannot be brought back is left out; all others come back, with what they share.

    Parameters
    ----------
    digest: that :func:`save` told. Nothing of a file with another one is brought back, or run.
        None: any, of a file that nobody else can have written.

    Returns
    -------
    dict: ``line`` (what came back, for the user), ``restored`` (number of variables), ``failed``
        (a list of ``name`` and ``why``), ``manifest`` of the snapshot.

    Raises
    ------
    Refused: the file is damaged, of another version, or not the user's own. The namespace is as
        it was.
    """
    with opened(path, anybodys=digest is not None) as file:
        return restored(file, digest)


def opened(path, anybodys=False):
    """A file of variables, to be read. Whoever loads it runs what is in it.

    Parameters
    ----------
    anybodys: whoever has written it; else nobody but this user may have.

    Raises
    ------
    Refused
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("The snapshot cannot be read: %s." % strerror(error)) from error
    try:
        # Of what is open: nobody can put another one in its place any more.
        status = os.fstat(number)
        why = ""
        if not stat.S_ISREG(status.st_mode):
            why = "it is no plain file"
        elif not anybodys and status.st_uid != os.getuid():
            why = "it belongs to somebody else, and whoever loads it runs what is in it"
        elif not anybodys and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            why = (
                "others can write to it, and whoever loads it runs what is in it; if it is as you "
                "have saved it, take their right away (chmod go-w)"
            )
        if why:
            raise Refused("The snapshot is not loaded: %s." % why)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


@shells.lent()
def restored(file, digest=None):
    """The same of a file that is open."""
    try:
        return _restore(file, digest)
    except records.Damaged as error:
        raise Refused("The snapshot is damaged: %s." % error) from error
    except OSError as error:
        raise Refused("The snapshot cannot be read: %s." % strerror(error)) from error


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
        raise Refused("The snapshot cannot be stored here: %s." % strerror(error)) from error
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
    manifest, around = told(reader), reader.header["around"]
    then, now = manifest["versions"], session.versions(cloudpickle)
    _check_versions(then, now)
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
    if then.get("hash_seed", "") not in ("", now["hash_seed"]):
        why = "texts have others here; start Python with PYTHONHASHSEED=%s" % then["hash_seed"]
        failed.append(("remembered hashes", why))
    rows = [{"name": name, "why": why} for name, why in failed + more]
    return {
        "line": line(restored, size, manifest["lost"], rows),
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
    around = reader.header["around"]
    failed = session.surround(around)
    failed += session.extend(around["extensions"])
    failed += settings.restore(around.get("settings", {}), here)
    with _no_collector():
        loaded, more = _load(unpickles.Loader(reader), _entries(reader), here)
    failed += more
    reader.end()
    return loaded, failed


def told(reader):
    """The manifest, with the names of the variables."""
    names = [name for group, name in _entries(reader) if group == "user"]
    return dict(reader.header["manifest"], names=names)


def _entries(reader):
    """Pairs of a group and a name."""
    return [(group, name) for group, names in reader.header["entries"] for name in names]


@contextlib.contextmanager
def _no_collector():
    """What is loaded is no garbage: looking for some would take longer than loading it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


#: An entry (group and name), its value, and why that is not whole, or None.
_Loaded = collections.namedtuple("_Loaded", "entry value why")  # noqa: PYI024 - no types here


def _load(loader, entries, here):
    """All values with their entries, and why they are not whole; and what could not be put back.

    Variables are there as soon as they are loaded: what is loaded next may need them.
    """
    values = []  # type: list[Any]
    failed, space = [], here.user_ns
    while len(values) < len(entries):
        group, name = entries[len(values)]
        loaded = loader.next()
        if group in VARIABLES:
            space.update(loaded)
        values += loaded.values()
        if group == "first" and not loader.failed:
            try:
                session.put(name, values[-1])
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failed.append((name, "%s: %s" % (type(error).__name__, error)))
    return list(map(_Loaded, entries, values, unpickles.damage(values, loader))), failed


def _settle(loaded, here):
    """Put what is whole where it belongs. The number of variables, and what failed."""
    restored, failed, hidden = 0, [], {}
    for (group, name), value, why in loaded:
        if why and group in VARIABLES:
            del here.user_ns[name]
        if why:
            failed.append((named(group, name), why))
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


def _check_versions(then, now):
    if then["implementation"] != now["implementation"] or _short(then) != _short(now):
        raise Refused(
            "The snapshot is of Python %s, and here runs %s: variables can only be brought back in "
            "the same version." % (_short(then), _short(now))
        )


def _short(versions):
    return ".".join(versions["python"].split(".")[:2])
