"""The sockets of a relay: those that clients talk to, and those that talk to a kernel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import zmq

from ..engines.base import Connection
from ..errors import EngineError
from ._descriptors import can_open, raise_descriptor_limit, too_many, words
from ._wire import Socket

__all__ = [
    "BACKS",
    "CHANNELS",
    "bind_fronts",
    "close",
    "connect_backs",
    "context",
    "rebind",
    "unlink",
]

#: Control before shell: what interrupts goes first.
CHANNELS = ("control", "shell", "stdin", "iopub", "hb")
#: The channels that reach the kernel. The relay answers the heartbeat itself.
BACKS = ("control", "shell", "stdin", "iopub")

#: Descriptors that the clients' side takes: two for each channel, and some to wake and to look up.
_PUBLIC = 2 * len(CHANNELS) + 4
#: Those of the kernel's side, with what the carriers take.
_PRIVATE = 2 * len(BACKS) + 6

_FRONT = dict.fromkeys(CHANNELS, zmq.ROUTER) | {"iopub": zmq.XPUB}
_BACK = dict.fromkeys(BACKS, zmq.DEALER) | {"iopub": zmq.XSUB}
#: A kernel that is still booting is met this many milliseconds after it listens, at the latest.
_RECONNECT_MS = 5
_SOCKETS = 65_000
#: The system frees the address of a closed socket a moment later; seconds to wait for that.
_REBIND_PATIENCE = 2.0

_lock = threading.Lock()
_context: tuple[int, zmq.Context[Socket]] | None = None


def context() -> zmq.Context[Socket]:
    """The ZeroMQ context of all relays of this process. A forked child gets its own."""
    global _context
    with _lock:
        if _context is None or _context[0] != os.getpid():
            raise_descriptor_limit()
            made: zmq.Context[Socket] = zmq.Context(io_threads=1)
            made.set(zmq.MAX_SOCKETS, _SOCKETS)
            _context = os.getpid(), made
        return _context[1]


def bind_fronts(wanted: Connection) -> tuple[dict[str, Socket], Connection]:
    """Open the clients' side; port 0 means any. Returns the sockets and where they are.

    Raises
    ------
    EngineError: an address is in use or cannot be bound, or too many files are open. Nothing is
    left open.
    """
    fronts: dict[str, Socket] = {}
    ports: dict[str, int] = {}
    try:
        # libzmq ends the process where it has none left to look up an address.
        can_open(_PUBLIC)
    except OSError as error:
        raise EngineError(words(error)) from error
    try:
        for name in CHANNELS:
            front = fronts[name] = context().socket(_FRONT[name])
            front.linger = 1000
            front.ipv6 = wanted.is_ipv6
            if name == "iopub":
                # Every subscription travels to the kernel, which welcomes each.
                front.xpub_verbose = 1
            elif name != "hb":
                # A client that comes back under its old identity takes its place, as in ipykernel.
                front.router_handover = 1
            if wanted.curve_secretkey and wanted.curve_publickey:
                front.curve_server = 1
                front.curve_publickey = wanted.curve_publickey.encode()
                front.curve_secretkey = wanted.curve_secretkey.encode()
            ports[name] = _bind(front, wanted, wanted.ports.get(name, 0), ports)
    except zmq.ZMQError as error:
        close(fronts)
        if too_many(error):
            raise EngineError(words(error)) from error
        raise EngineError(
            f"The kernel's {name} channel cannot listen on {wanted.ip}: {error.strerror}. "
            "Another program may use the port; let Jupyter choose it."
        ) from error
    except BaseException:
        close(fronts)
        raise
    return fronts, replace(wanted, ports=ports)


def _bind(front: Socket, where: Connection, port: int, taken: Mapping[str, int]) -> int:
    if where.transport == "tcp":
        if port:
            _bind_again(front, where.endpoint(port))
            return port
        return front.bind_to_random_port(f"tcp://{where.host}")
    free = (n for n in count(1) if n not in taken.values() and not _path(where, n).exists())
    port = port or next(free)
    front.bind(f"ipc://{where.ip}-{port}")
    return port


def _bind_again(front: Socket, address: str) -> None:
    end = time.monotonic() + _REBIND_PATIENCE
    while True:
        try:
            front.bind(address)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _path(where: Connection, port: int) -> Path:
    return Path(f"{where.ip}-{port}")


def rebind(fronts: Mapping[str, Socket], where: Connection) -> bool:
    """Listen again on ipc sockets whose files are gone. True where there were any."""
    lost = [
        name
        for name in CHANNELS
        if where.transport == "ipc" and not _path(where, where.ports[name]).exists()
    ]
    for name in lost:
        fronts[name].unbind(where.url(name))
        fronts[name].bind(where.url(name))
    return bool(lost)


def unlink(where: Connection) -> None:
    """Remove the files of ipc sockets."""
    if where.transport == "ipc":
        for port in where.ports.values():
            with suppress(OSError):
                _path(where, port).unlink()


def connect_backs(back: Connection) -> dict[str, Socket]:
    """Open the kernel's side. Messages sent at once wait until the kernel listens.

    Raises
    ------
    zmq.ZMQError, OSError: that cannot be done. Nothing is left open.
    """
    can_open(_PRIVATE)
    backs: dict[str, Socket] = {}
    # The kernel asks for input under the identity that sent the cell: one for all channels.
    identity = b"gpu-share-" + os.urandom(8).hex().encode()
    try:
        for name in BACKS:
            socket = backs[name] = context().socket(_BACK[name])
            socket.linger = 0
            socket.ipv6 = back.is_ipv6
            # A kernel that is stopped reads nothing, and whoever has no room to send waits for it:
            # neither a carrier nor the relay's own thread could be ended then.
            socket.sndhwm = 0
            socket.reconnect_ivl = _RECONNECT_MS
            if name != "iopub":
                socket.identity = identity
            if back.curve_publickey and back.curve_secretkey:
                socket.curve_serverkey = back.curve_publickey.encode()
                socket.curve_publickey = back.curve_publickey.encode()
                socket.curve_secretkey = back.curve_secretkey.encode()
            socket.connect(back.url(name))
        backs["iopub"].send(b"\x01")  # subscribe to everything; the front filters for each client
    except BaseException:
        close(backs)
        raise
    return backs


def close(sockets: Mapping[str, Socket]) -> None:
    """Close sockets at once, dropping what they still hold."""
    for socket in sockets.values():
        socket.close(linger=0)
