"""The service: who asks, what for, and the answer. One line of JSON each way."""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _driver
from ._driver import DriverError
from ._groups import Groups, GroupsError

__all__ = ["Service"]

_log = logging.getLogger(__name__)

#: Names of groups: claims of the engine.
_NAME = re.compile(r"[0-9a-f]{32}")
_LONGEST = 16384
#: Seconds for a request to come, and for killed processes to be gone.
_PATIENCE = 5.0
#: Seconds until a new group has to have a process.
_JOINING = 120.0
#: Requests that are worked on at once; more wait.
_AT_ONCE = 16


@dataclass(frozen=True)
class _Peer:
    """A process at the other end, as the system has told of it when it connected."""

    pid: int
    uid: int


class _RefusedError(Exception):
    """A sentence for whoever has asked."""


class Service:
    """Answers requests. Its methods may be called from any thread.

    A request is an object with ``do`` and ``group``:

    ``make``: a new group, with ``limits``: bytes by uuid of a GPU. All other GPUs get none.
    ``set``: other limits for one.
    ``join``: the process that asks comes into it.
    ``end``: all processes in it are killed, and it is removed once it is empty.

    Nobody reaches groups of another user. A process in a group may ask for nothing: it would leave
    its limit. All limits together are at most what a GPU has.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._lock = threading.Lock()
        #: Groups that nobody has joined yet: empty, and wanted until then.
        self._new: dict[Path, float] = {}
        self._ended = False

    def serve(self, listening: socket.socket) -> None:
        """Answer all who connect, until :meth:`end`."""
        free = threading.BoundedSemaphore(_AT_ONCE)

        def answer(connection: socket.socket) -> None:
            try:
                self._answer(connection)
            finally:
                free.release()

        while True:
            free.acquire()
            try:
                connection, _ = listening.accept()
            except OSError:
                free.release()
                if self._ended:
                    return
                raise
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def end(self, listening: socket.socket) -> None:
        """Answer nobody any more. Limits and groups stay as they are."""
        self._ended = True
        listening.shutdown(socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_PATIENCE)
            with suppress(OSError):  # whoever asked is gone
                try:
                    peer = _peer_of(connection)
                    self.do(peer, _read(connection))
                    answer: dict[str, Any] = {"ok": True}
                except TimeoutError:
                    return
                except (_RefusedError, GroupsError, DriverError, OSError) as error:
                    _log.warning("refused: %s", error)
                    answer = {"error": str(error)}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def do(self, peer: _Peer, request: Mapping[str, Any]) -> None:
        """Do what was asked for, or raise with the reason why not."""
        what, name = request.get("do"), request.get("group")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _RefusedError("A group has a name of 32 hexadecimal digits.")
        if self._groups.is_inside(peer.pid):
            raise _RefusedError("A process under a limit cannot change limits.")
        path = self._groups.path(peer.uid, name)
        if what == "make":
            self._make(peer, name, _limits_of(request))
        elif what == "set":
            with self._lock:
                self._check_room(_limits_of(request), path)
                if not path.is_dir():
                    raise _RefusedError(f"There is no group {name}.")
                _driver.limit(path, _limits_of(request))
        elif what == "join":
            with self._lock:  # it is swept where it is empty and not new
                self._groups.join(path, peer.pid, peer.uid)
                self._new.pop(path, None)
        elif what == "end":
            self._end(path)
        else:
            raise _RefusedError(f"{what!r} is nothing that can be done.")

    def _make(self, peer: _Peer, name: str, limits: Mapping[str, int]) -> None:
        with self._lock:
            self._sweep()
            self._check_room(limits, self._groups.path(peer.uid, name))
            path = self._groups.make(peer.uid, name)
            try:
                _driver.limit(path, limits)
            except BaseException:
                self._groups.remove(path)
                raise
            self._new[path] = time.monotonic() + _JOINING

    def _end(self, path: Path) -> None:
        if not path.is_dir():
            return
        if not self._groups.end(path, _PATIENCE):
            raise _RefusedError("Processes that were killed are not gone yet; try again.")
        with self._lock:
            self._remove(path)

    def _check_room(self, limits: Mapping[str, int], path: Path) -> None:
        room = _driver.memory()
        held = _driver.granted(each for each in self._groups.all() if each != path)
        for uuid, amount in limits.items():
            taken = held.get(uuid, 0)
            if uuid in room and taken + amount > room[uuid]:
                raise _RefusedError(
                    f"GPU {uuid} has no room for a limit of {amount} bytes: others have {taken} "
                    f"of {room[uuid]}."
                )

    def _sweep(self) -> None:
        """Remove groups of kernels whose server has ended before it could say so."""
        now = time.monotonic()
        for path in list(self._groups.all()):
            if self._new.get(path, 0.0) <= now and not self._groups.is_populated(path):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            _driver.clear(path)
        self._groups.remove(path)
        self._new.pop(path, None)


def _peer_of(connection: socket.socket) -> _Peer:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", packed)
    if pid <= 0:
        raise _RefusedError("A process of another container cannot be moved.")
    return _Peer(pid, uid)


def _read(connection: socket.socket) -> Mapping[str, Any]:
    got, end = b"", time.monotonic() + _PATIENCE
    while not got.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        more = connection.recv(_LONGEST)
        got += more
        if not more or len(got) > _LONGEST:
            raise _RefusedError("A request is one line.")
    try:
        request = json.loads(got)
    except ValueError as error:
        raise _RefusedError("A request is a line of JSON.") from error
    if not isinstance(request, dict):
        raise _RefusedError("A request is an object.")
    return request


def _limits_of(request: Mapping[str, Any]) -> dict[str, int]:
    found = request.get("limits")
    if not isinstance(found, dict) or not found:
        raise _RefusedError("Limits are an object of bytes by GPU.")
    for amount in found.values():
        if type(amount) is not int or not 0 <= amount < 2**63:
            raise _RefusedError("A limit is a number of bytes.")
    return found
