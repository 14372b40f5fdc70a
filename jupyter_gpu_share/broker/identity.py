"""Who calls, as the system proves it. Nothing that a request says about its sender is used."""

from __future__ import annotations

import grp
import os
import pwd
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from ..engines._processes import Holder
from ..errors import GpuShareError

__all__ = ["Account", "Accounts", "NotProven", "Peer", "own_process", "peer_of", "uid_of"]

_PROC = Path("/proc")
_CREDENTIALS = struct.Struct("iII")
#: Since Linux 6.5; Python has no name for it.
_SO_PEERPIDFD = 77
#: Seconds that an account counts as it was found: directories of accounts may be far away.
_ACCOUNT_LIFETIME = 60.0


class NotProven(GpuShareError):  # noqa: N818
    """It is not certain who calls, or that a process is theirs."""


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a socket, as it was when it connected.

    Attributes
    ----------
    process: its number as this process sees it, whatever container it is in.
    """

    uid: int
    gid: int
    process: Holder


@dataclass(frozen=True)
class Account:
    """What the system's directory says of a user. ``user`` is ``uid N`` where it has no name."""

    uid: int
    user: str
    groups: frozenset[str]


def peer_of(connection: socket.socket) -> Peer:
    """Who opened a Unix socket.

    The number of a process is used again once it has ended. So its start time is read first, and
    then it is made sure that the process which connected still runs.

    Raises
    ------
    NotProven: it has ended, or its process number means nothing here.
    """
    pid, uid, gid = _credentials(connection)
    if pid <= 0:
        raise NotProven(
            "The broker does not see the calling process; run the broker outside of containers."
        )
    process = Holder.of(pid)
    if not process.start_time or not _lives(connection, pid, uid):
        raise NotProven("The calling process has ended.")
    return Peer(uid, gid, process)


def uid_of(connection: socket.socket) -> int:
    """The user who opened a Unix socket, whether or not their process still runs."""
    return _credentials(connection)[1]


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    return int(pid), int(uid), int(gid)


def _lives(connection: socket.socket, pid: int, uid: int) -> bool:
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # an older kernel: a number that is another user's by now is seen at least
        return _owner(pid) == uid
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(descriptor)


def own_process(peer: Peer, pid: int) -> Holder:
    """A process of the caller's, by the number that it has where the caller is.

    Raises
    ------
    NotProven: there is none, or it is somebody else's.
    """
    for number in _numbers_here(peer.process.pid, pid):
        process = Holder.of(number)
        # The owner is read between two looks at the start time, which so are of one process.
        owner = _owner(number)
        if process.start_time and process == Holder.of(number) and owner == peer.uid:
            return process
    raise NotProven(f"There is no process {pid} of yours.")


def _numbers_here(caller: int, pid: int) -> list[int]:
    try:
        theirs = (_PROC / str(caller) / "ns/pid").readlink()
    except OSError as error:
        raise NotProven("The container of the calling process cannot be seen.") from error
    if theirs == (_PROC / "self/ns/pid").readlink():
        return [pid]
    found = []
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns/pid").readlink() == theirs and _fields(entry, "NSpid")[-1] == str(pid):
                found.append(int(entry.name))
    return found


def _owner(pid: int) -> int | None:
    """The real user of a process; None where it is gone."""
    try:
        return int(_fields(_PROC / str(pid), "Uid")[0])
    except (OSError, IndexError):
        return None


def _fields(process: Path, name: str) -> list[str]:
    for line in (process / "status").read_text(errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1:]
    return []


class Accounts:
    """Users by number, as the system's directory knows them. Asking it may block.

    Parameters
    ----------
    administrators: name of the group whose members are administrators beside root; empty: none.
    clock: seconds.
    """

    def __init__(self, administrators: str = "", clock: Callable[[], float] = monotonic) -> None:
        self._administrators = administrators
        self._clock = clock
        self._known: dict[int, tuple[float, Account]] = {}
        #: Users whom the directory did not know when it was last asked.
        self._away: set[int] = set()

    def of(self, uid: int) -> Account:
        """The account of a user; a user without a name is in no group.

        One who had a name has it still while the directory is away: limits are by names and groups.
        """
        until, account = self._known.get(uid, (0.0, None))
        if account is None or self._clock() >= until:
            found = _look_up(uid)
            (self._away.add if found is None else self._away.discard)(uid)
            account = found or account or Account(uid, f"uid {uid}", frozenset())
            self._known[uid] = self._clock() + _ACCOUNT_LIFETIME, account
        return account

    def is_administrator(self, uid: int) -> bool:
        """Whether this user may see and end what is others'. Root may."""
        if uid == 0:
            return True
        if not self._administrators or self._administrators not in self.of(uid).groups:
            return False
        return uid not in self._away  # who has no account any more ends nobody's kernels


def _look_up(uid: int) -> Account | None:
    """None where the directory has no such user, or does not answer."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    names = set()
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        with suppress(KeyError):
            names.add(grp.getgrgid(gid).gr_name)
    return Account(uid, entry.pw_name, frozenset(names))
