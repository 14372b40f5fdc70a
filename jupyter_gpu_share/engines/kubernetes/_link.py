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

import zmq
import zmq.asyncio

from ...errors import EngineError
from ..base import Connection

__all__ = ["AgentLink", "AgentState", "Owned"]

_log = logging.getLogger(__name__)

_RECONNECT_MS, _RECONNECT_MAX_MS = 10, 500
#: Seconds between two attempts to say a thing until it is answered.
_REPEAT = 0.5


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
    """

    run: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    exit_why: str = ""
    used_bytes: int | None = None
    utilization: float | None = None
    memory_bytes: int | None = None


class AgentLink:
    """Talks to one agent. Belongs to the event loop that it is opened on.

    Parameters
    ----------
    connection: of the kernel; the agent uses the same keys.
    port: of the agent.
    instance: of this server process; tells the agent its owner from others.
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
        self._address = f"tcp://{connection.ip}:{port}"
        self._instance = instance
        self._renewal = renewal
        self._changed = changed
        self._news = asyncio.Event()
        self._refused = False
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: zmq.asyncio.Socket | None = None

    def open(self, context: zmq.asyncio.Context) -> None:
        """Connect, and renew the pod's life from now on."""
        socket = self._socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        if self._connection.curve_publickey and self._connection.curve_secretkey:
            socket.curve_serverkey = self._connection.curve_publickey.encode()
            socket.curve_publickey = self._connection.curve_publickey.encode()
            socket.curve_secretkey = self._connection.curve_secretkey.encode()
        socket.connect(self._address)
        self._tasks = [
            asyncio.create_task(self._receive(socket), name="agent replies"),
            asyncio.create_task(self._renew(), name="agent renewal"),
        ]

    async def close(self) -> None:
        """Disconnect. The pod lives on until its watchdog bites."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._socket is not None:
            self._socket.close(linger=100)
            self._socket = None

    async def greet(self, replaces: str = "") -> AgentState:
        """Wait until the agent answers.

        Parameters
        ----------
        replaces: the instance that owned the pod and is known to be gone.

        Raises
        ------
        Owned: another server holds it.
        """
        while self.state is None:
            if self._refused:
                raise Owned("Another Jupyter server of the same name runs this kernel.")
            await self._say({"op": "renew", "replaces": replaces})
            await self._wait(_REPEAT)
        return self.state

    async def start(
        self, run: str, argv: list[str], env: dict[str, str], cwd: str | None
    ) -> AgentState:
        """Have a kernel started, and wait until it is; ``run`` is unique to this start.

        Raises
        ------
        Owned: another server holds the pod.
        """
        order = {"op": "start", "run": run, "argv": argv, "env": env, "cwd": cwd}
        while True:
            state = self.state
            if state is not None and state.run == run:
                if state.pid is not None or state.exit_code is not None:
                    return state
                await self._wait(_REPEAT)
                continue
            if self._refused:
                raise Owned("Another Jupyter server of the same name runs this kernel.")
            await self._say(order)
            await self._wait(_REPEAT)

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's session."""
        await self._say({"op": "signal", "signum": signum})

    async def end(self, patience: float) -> None:
        """End the kernel, leave the pod. Returns when it is gone, or after ``patience`` seconds."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._end(), patience)

    async def _end(self) -> None:
        while self.state is None or self.state.pid is not None:
            await self._say({"op": "end"})
            await self._wait(_REPEAT)

    async def quit(self) -> None:
        """Have the pod end by itself. Not waited for."""
        await self._say({"op": "quit"})

    # -- the wire ----------------------------------------------------------------------------

    async def _say(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            return
        payload = json.dumps({"instance": self._instance, **message}).encode()
        with suppress(zmq.ZMQError):  # never heard of the agent: said again later
            await self._socket.send_multipart([self._sign(payload), payload], zmq.NOBLOCK)

    def _sign(self, payload: bytes) -> bytes:
        return hmac.new(self._connection.key, payload, hashlib.sha256).hexdigest().encode()

    async def _wait(self, seconds: float) -> None:
        self._news.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    async def _renew(self) -> None:
        while True:
            await self._say({"op": "renew"})
            await asyncio.sleep(self._renewal)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                signature, payload = frames
                if not hmac.compare_digest(signature, self._sign(payload)):
                    continue
                self._take(json.loads(payload))
            except (ValueError, KeyError, TypeError):
                _log.warning("A message of a kernel's agent could not be understood")

    def _take(self, message: dict[str, Any]) -> None:
        if message["op"] == "refused":
            self._refused = True
            self._news.set()
            return
        self._refused = False
        ended = message.get("exit") or {}
        reading = message.get("reading") or {}
        state = AgentState(
            run=message.get("run"),
            pid=message.get("pid"),
            exit_code=ended.get("code"),
            exit_why=ended.get("why") or "",
            used_bytes=reading.get("used_bytes"),
            utilization=reading.get("utilization"),
            memory_bytes=reading.get("memory_bytes"),
        )
        changed = state != self.state
        self.state = state
        self._news.set()
        if changed:
            self._changed(state)
