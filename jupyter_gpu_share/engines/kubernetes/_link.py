"""The server's end of the conversation with a pod's agent."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import zmq
import zmq.asyncio

from ..._text import one_line
from ..._threads import stopped, within
from ...errors import EngineError
from ..base import Connection

__all__ = ["AgentLink", "AgentState", "Owned"]

_log = logging.getLogger(__name__)

_RECONNECT_MS, _RECONNECT_MAX_MS = 10, 500
#: Seconds between two attempts to say a thing until it is answered.
_REPEAT = 0.5
#: Signs of life without an answer after which the connection is made anew.
_UNANSWERED = 3
#: The agent's memory is the user's own: what it says is checked, and bounded.
_LONGEST_MESSAGE = 2**20
_LONGEST_WHY = 300


class Owned(EngineError):  # noqa: N818
    """Another server that is alive holds the kernel."""


@dataclass(frozen=True)
class AgentState:
    """What the agent last told.

    Attributes
    ----------
    run: the start that it follows; None before the first.
    pid: of the kernel, within the pod; None while it does not run.
    exit_code, exit_why: of the kernel's last end in this run; ``why`` is ``oom`` where the
        container had no memory left, or words of the agent.
    used_bytes, utilization, memory_bytes: the last reading; None where not known.
    leaving: the pod was told to end; its kernel waits for :meth:`AgentLink.leave`.
    parks: the agent knows :meth:`AgentLink.park`; one that an older version has started does not.
    parking, parked, park_why: the last order to park, whether it was carried out, and a line that
        says why not. Neither is there while it goes on.
    """

    run: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    exit_why: str = ""
    used_bytes: int | None = None
    utilization: float | None = None
    memory_bytes: int | None = None
    leaving: bool = False
    parks: bool = False
    parking: str | None = None
    parked: bool = False
    park_why: str = ""

    @property
    def settled(self) -> bool:
        """True once it is known what became of the start: a kernel runs, or has ended."""
        return self.pid is not None or self.exit_code is not None

    @property
    def unended(self) -> bool:
        """True while a kernel runs, or is on its way."""
        return self.pid is not None or (self.run is not None and self.exit_code is None)


class AgentLink:
    """Talks to one agent. Belongs to the event loop that it is opened on.

    Parameters
    ----------
    connection: of the kernel; the agent has the same keys.
    port: of the agent.
    instance: of this server process; tells the agent its owner from others. Another one is let
        in when the owner has missed three renewals.
    renewal: seconds between two signs of life.
    changed: told of every state that differs from the last; must not block.
    """

    def __init__(
        self,
        connection: Connection,
        port: int,
        *,
        instance: str,
        renewal: float,
        changed: Callable[[AgentState], None],
    ) -> None:
        self.state: AgentState | None = None
        self._connection = connection
        self._address = connection.endpoint(port)
        self._instance = instance
        self._renewal = renewal
        self._changed = changed
        self._news = asyncio.Event()
        self._refused = False
        self._closed = False
        self._replaces = ""
        self._leaves = False
        self._heard = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: zmq.asyncio.Socket | None = None

    def open(self, context: zmq.asyncio.Context, replaces: str = "") -> None:
        """Connect, and renew the pod's life from now on.

        Parameters
        ----------
        replaces: the instance that owned the pod and is known to be gone. The first sign of life
            has to name it: without that the agent turns it away.
        """
        self._replaces = replaces
        socket = self._socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.ipv6 = self._connection.is_ipv6
        socket.maxmsgsize = _LONGEST_MESSAGE
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        if self._connection.curve_publickey and self._connection.curve_secretkey:
            socket.curve_serverkey = self._connection.curve_publickey.encode()
            socket.curve_publickey = self._connection.curve_publickey.encode()
            socket.curve_secretkey = self._connection.curve_secretkey.encode()
        socket.connect(self._address)
        self._tasks = [
            asyncio.create_task(self._receive(socket), name="agent replies"),
            asyncio.create_task(self._renew(socket), name="agent renewal"),
        ]

    async def close(self) -> None:
        """Disconnect. The pod lives on until its watchdog bites. Who waits gets an error."""
        self._closed = True
        self._news.set()
        tasks, self._tasks = self._tasks, []
        await stopped(*tasks)
        if self._socket is not None:
            self._socket.close(linger=100)
            self._socket = None

    async def greet(self) -> AgentState:
        """Wait until the agent answers.

        Raises
        ------
        Owned: another server holds it.
        EngineError: the link was closed.
        """
        await self._insist({"op": "renew"}, lambda: self.state is not None)
        assert self.state is not None
        return self.state

    async def start(
        self, run: str, argv: list[str], env: dict[str, str], cwd: str | None
    ) -> AgentState:
        """Have a kernel started, and wait until it is; ``run`` is unique to this start.

        Raises
        ------
        Owned: another server holds the pod.
        EngineError: the link was closed.
        """
        order = {"op": "start", "run": run, "argv": argv, "env": env, "cwd": cwd}

        def settled() -> bool:
            return self.state is not None and self.state.run == run and self.state.settled

        await self._insist(order, settled)
        assert self.state is not None
        return self.state

    async def signal(self, signum: int, *, alone: bool = False) -> None:
        """Send a signal to the kernel's session, or ``alone`` to its first process."""
        await self._say({"op": "signal", "signum": signum, **({"alone": True} if alone else {})})

    async def end(self, patience: float) -> None:
        """End the kernel, leave the pod.

        Returns when nothing runs or is about to, or after ``patience`` seconds.
        """
        ended = self._insist(
            {"op": "end"}, lambda: self.state is not None and not self.state.unended
        )
        with suppress(asyncio.TimeoutError, EngineError):
            await within(patience, ended)

    async def park(self, *, vacate: bool, watchdog: float, patience: float) -> AgentState:
        """Have the agent take the kernel off its GPU, and wait until it has, or says why not.

        Nothing of the kernel is lost: whoever takes it over has it move back. As the agent's word
        is the user's own, so is whether the kernel has really left.

        Parameters
        ----------
        vacate: false where the share is away already; only the watchdog changes then.
        watchdog: seconds that the pod of the parked kernel lives without a server.
        patience: seconds that the kernel has, cells that run included. Half of it a cell has to
            end; then it is interrupted. Where the kernel has to move back, it takes longer.

        Raises
        ------
        Owned: another server holds the pod.
        EngineError: the link was closed.
        """
        number = uuid4().hex
        order = {"op": "park", "park": number, "vacate": vacate}
        order |= {"watchdog": watchdog, "patience": patience}

        def settled() -> bool:
            state = self.state
            if state is None or state.parking != number:
                return False
            return state.parked or bool(state.park_why)

        await self._insist(order, settled)
        assert self.state is not None
        return self.state

    async def leave(self) -> None:
        """Have the kernel end in order, and the pod with it: nothing is to be saved of it.

        Not waited for; every later sign of life says it again.
        """
        self._leaves = True
        await self._say({"op": "leave"})

    async def quit(self) -> None:
        """Have the pod end by itself. Not waited for."""
        await self._say({"op": "quit"})

    async def _insist(self, order: dict[str, Any], done: Callable[[], bool]) -> None:
        """Say a thing until the agent tells that it is done; each time it answers how far it is.

        Raises
        ------
        Owned: another server holds the pod.
        EngineError: the link was closed.
        """
        while not done():
            await self._say(order)
            with suppress(asyncio.TimeoutError):
                await within(_REPEAT, self._until(done))

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._refused:
                raise Owned("Another Jupyter server of the same name runs this kernel.")
            if self._closed:
                raise EngineError("The kernel's pod was let go of in the meantime.")
            self._news.clear()
            await self._news.wait()

    # -- the wire ----------------------------------------------------------------------------

    async def _say(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            return
        sender: dict[str, Any] = {"instance": self._instance, "renewal": self._renewal}
        if self._replaces:
            sender["replaces"] = self._replaces
        payload = json.dumps({**sender, **message}).encode()
        with suppress(zmq.ZMQError):  # never heard of the agent: said again later
            await self._socket.send_multipart([self._sign(payload), payload], zmq.NOBLOCK)

    def _sign(self, payload: bytes) -> bytes:
        return hmac.new(self._connection.key, payload, hashlib.sha256).hexdigest().encode()

    async def _renew(self, socket: zmq.asyncio.Socket) -> None:
        clock = asyncio.get_running_loop().time
        self._heard = clock()
        while True:
            if clock() > self._heard + _UNANSWERED * self._renewal:
                # A silent network, or a message that ZeroMQ has refused: it gives up there.
                with suppress(zmq.ZMQError):
                    socket.disconnect(self._address)
                socket.connect(self._address)
                self._heard = clock()
            await self._say({"op": "leave" if self._leaves else "renew"})
            await asyncio.sleep(self._renewal)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                signature, payload = frames
                if not hmac.compare_digest(signature, self._sign(payload)):
                    continue
                message = json.loads(payload)
                state = None if message["op"] == "refused" else _state(message)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                _log.warning("A message of a kernel's agent could not be understood")
                continue
            try:
                self._take(state)
            except Exception:
                _log.exception("What a kernel's agent told could not be followed")

    def _take(self, state: AgentState | None) -> None:
        """Take note of how things stand; None where the agent listens to another server."""
        self._heard = asyncio.get_running_loop().time()
        self._refused = state is None
        if state is not None:
            self._replaces = ""
        self._news.set()
        if state is not None and state != self.state:
            self.state = state
            self._changed(state)


def _state(message: dict[str, Any]) -> AgentState:
    """Read what an agent tells.

    Raises
    ------
    KeyError, OverflowError, TypeError, ValueError: it is not what an agent says.
    """
    ended, reading = message["exit"] or {}, message["reading"] or {}
    if not isinstance(ended, dict) or not isinstance(reading, dict):
        raise TypeError("not a state")
    run, why, leaving = message["run"], ended.get("why", ""), message.get("leaving", False)
    parking, parked = message.get("parking"), message.get("parked", False)
    park_why = message.get("park_why", "")
    if not isinstance(leaving, bool) or not isinstance(parked, bool):
        raise TypeError("not a truth value")
    if not isinstance(run, str | None) or not isinstance(why, str):
        raise TypeError("not text")
    if not isinstance(parking, str | None) or not isinstance(park_why, str):
        raise TypeError("not text")
    utilization = reading.get("utilization")
    if utilization is not None:
        utilization = float(utilization)
        if not 0.0 <= utilization <= 1.0:
            raise ValueError("not a share of the time")
    return AgentState(
        run=run,
        pid=_whole(message["pid"]),
        exit_code=_whole(ended.get("code"), least=-255, most=255),
        exit_why=one_line(why)[:_LONGEST_WHY],
        used_bytes=_whole(reading.get("used_bytes")),
        utilization=utilization,
        memory_bytes=_whole(reading.get("memory_bytes")),
        leaving=leaving,
        parks="parking" in message,
        parking=parking,
        parked=parked,
        park_why=one_line(park_why)[:_LONGEST_WHY],
    )


def _whole(value: object, least: int = 0, most: int = 2**63 - 1) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError("not a number that can be")
    return value
