"""How a user's server, and the command, ask the broker of the machine. Blocking, for one thread."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from ..errors import EngineError, LedgerError
from ..sentences import heard, say

__all__ = [
    "BROKER",
    "DEFAULT_SOCKET",
    "FITS",
    "BrokerAway",
    "BrokerClient",
    "BrokerRefused",
    "find_broker",
    "fits_of",
    "which_broker",
]

_log = logging.getLogger(__name__)

#: Names the broker's socket in the environment.
BROKER = "JUPYTER_GPU_SHARE_BROKER"
#: Where sizes are asked about, to be answered with sentences where the broker knows them.
FITS = "/v1/fits?sentences=true"
DEFAULT_SOCKET = "/run/jupyter-gpu-share/broker.sock"
#: Seconds for an answer. The broker has one desk, and many may stand before it.
_PATIENCE = 15.0
#: Bytes of an answer: thousands of claims.
_MAX_ANSWER = 16 * 2**20


class BrokerAway(LedgerError):  # noqa: N818
    """The broker does not answer: whether it did what was asked is not known. Ask again."""


class BrokerRefused(EngineError):  # noqa: N818
    """The broker answered, and does not do it."""

    def __init__(self, line: str, status: int = 0) -> None:
        super().__init__(line)
        self.status = status


def find_broker(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The socket of this machine's broker; None where there is none.

    A socket that nobody listens on counts: its broker is away.

    Raises
    ------
    EngineError: the environment names what is no socket of this machine.
    """
    named = environ.get(BROKER, "")
    if not named:
        path = Path(DEFAULT_SOCKET)
        return path if path.exists() else None
    if named.lower().startswith(("http:", "https:")):
        raise EngineError(
            f"{BROKER} names the broker of a cluster, which shares out no GPUs of this machine. "
            "Leave c.GpuShareProvisioner.engine out: kernels run in the cluster then."
        )
    text = named.removeprefix("unix://")
    if not text.startswith("/"):
        raise EngineError(
            f"{BROKER}={named!r} is no path of a socket; write it like {DEFAULT_SOCKET}, or for "
            "the broker of a cluster http://gpu-share-broker:8000/services/gpu-share."
        )
    return Path(text)


def which_broker() -> Path | None:
    """The socket of the broker that counts for this process; None where there is none. Blocks.

    The environment may name another one than the machine's, but none that shares out real GPUs
    where the machine has one at its usual place: they would be given out twice.

    Raises
    ------
    BrokerAway: the one that is named does not answer now.
    EngineError
    """
    path, usual = find_broker(), Path(DEFAULT_SOCKET)
    if path is None or path == usual or not usual.exists():
        return path
    with closing(BrokerClient(path)) as client:
        if client.ask("GET", "/v1/machine")["simulation"]:
            return path
    _log.warning("%s names %s, but this machine's broker is on %s.", BROKER, path, usual)
    return usual


class BrokerClient:
    """A connection to the broker, made when it is needed and made again when it was lost.

    Every request may be sent twice: where an answer was lost, it is.
    """

    def __init__(self, path: Path, patience: float = _PATIENCE) -> None:
        self.path = path
        self._patience = patience
        self._connection: _Connection | None = None
        self._pid = os.getpid()
        #: How often a connection was made.
        self.connected = 0

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON.

        Raises
        ------
        BrokerAway, BrokerRefused
        """
        data = None if body is None else json.dumps(body).encode()
        for fresh in (False, True):
            if self._pid != os.getpid():  # the parent's, whose answers are not for a child
                self._connection, self._pid = None, os.getpid()
            if fresh or self._connection is None:
                self.close()
                self._connection = self._connect()
                fresh = True
            try:
                self._connection.request(method, path, data, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                text = response.read(_MAX_ANSWER)
            except (OSError, HTTPException) as error:
                self.close()
                if fresh:
                    raise self._away() from error
                continue  # the broker may have closed a connection that was long unused
            return _read(response.status, text)
        raise self._away()

    def events(self, last_id: str = "") -> EventStream:
        """A stream of events, on a connection of its own.

        Raises
        ------
        BrokerAway, BrokerRefused
        """
        connection = self._connect()
        try:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            connection.request("GET", "/v1/events", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                _read(response.status, response.read(_MAX_ANSWER))
            return EventStream(connection, response)
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._away() from error
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> _Connection:
        connection = _Connection(self.path, self._patience)
        try:
            connection.connect()
        except OSError as error:
            raise self._away() from error
        self.connected += 1
        return connection

    def _away(self) -> BrokerAway:
        return BrokerAway(say("broker-away-here", path=self.path))


class EventStream:
    """Events as they come, for the thread that reads them. Others may only :meth:`stop` it."""

    #: Seconds without a sign of life after which a stream counts as lost.
    patience = 45.0

    def __init__(self, connection: _Connection, response: HTTPResponse) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._response = response
        self._socket.settimeout(self.patience)

    def __iter__(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Id, kind and data of each event, until the stream ends."""
        fields: dict[str, str] = {}
        while True:
            try:
                line = self._response.readline(_MAX_ANSWER)
            except (OSError, HTTPException, ValueError):
                return
            if not line:
                return
            name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])
                fields = {}
            else:
                fields = {}

    def stop(self) -> None:
        """Have it end for who reads from it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    sock: socket.socket

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path
        self._seconds = patience

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # With a timeout of Python's, a socket before which many stand refuses at once.
            seconds = struct.pack("ll", int(self._seconds), 0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
            made.connect(str(self._path))
            made.settimeout(self._seconds)
        except BaseException:
            made.close()
            raise
        self.sock = made


def fits_of(answer: Any, count: int) -> list[str | None]:
    """For each of so many sizes None where it could be had, else why not.

    A broker of an earlier version answers with text alone.

    Raises
    ------
    EngineError: the answer makes no sense.
    """
    if not isinstance(answer, list) or len(answer) != count:
        raise EngineError("The broker's answer about sizes makes no sense.")
    return [
        None if why is None else heard(why, "why") if isinstance(why, dict) else str(why)
        for why in answer
    ]


def _read(status: int, text: bytes) -> Any:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BrokerRefused(
            f"The broker's answer (status {status}) makes no sense; its log may say more.", status
        ) from error
    if status < 400:
        return data
    detail = heard(data, "detail") if isinstance(data, dict) else ""
    raise BrokerRefused(detail or f"The broker refuses it (status {status}).", status)
