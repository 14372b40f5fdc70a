"""A kernel without a server: its agent is asked once to take it off its GPU.

A server may be given a second to end. What its kernels hold is not to depend on what it does in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

import zmq.asyncio

from ..._threads import within
from ..base import Connection
from ._link import AgentLink, AgentState
from ._pods import AGENT_PORT

__all__ = ["Parked", "park"]

#: Seconds between two signs of life while the agent is waited for. When it has the last of them,
#: another process may take the pod over without a word of whose it was.
_RENEWAL = 5.0
#: Seconds until an agent has to answer at all, which takes milliseconds where it is reached.
_GREETING = 5.0
#: Seconds that an agent may take beyond the patience: until the GPU's memory is seen to be free,
#: until a kernel that could not leave is back on it, and for the way.
_BEYOND = 15.0 + 30.0 + 10.0


@dataclass(frozen=True)
class Parked:
    """What came of it.

    Attributes
    ----------
    vacated: the kernel is off its GPU by its agent's word, so that its share may go. The pod lives
        for as long as the watchdog that was asked for.
    why: a line that says why not; empty where it is. The kernel, if there is one, is as it was,
        unless the line says otherwise.
    """

    vacated: bool
    why: str = ""


async def park(
    connection: Connection,
    *,
    instance: str,
    before: str,
    vacate: bool,
    watchdog: float,
    patience: float,
    context: zmq.asyncio.Context,
    ends: bool = False,
    port: int = AGENT_PORT,
) -> Parked:
    """Have a pod's agent park its kernel: one conversation, after which nothing is kept of it.

    Who calls has written on the pod that it is its own (:func:`claim_pod`). The next process that
    takes the kernel over has it move back, as after a server that has died. May be called again
    where the outcome is not known.

    Parameters
    ----------
    connection: of the kernel, with the pod's address, from its Secret.
    instance: the process that owns the pod now.
    before: the process whose it was, which has ended.
    vacate: false where the share is away already; only the watchdog changes then.
    watchdog: seconds that the pod of the parked kernel lives without a server.
    patience: seconds that the kernel has to leave its GPU. A cell has half of it to end, is then
        interrupted, and has to be over after three quarters.
    context: for the socket.
    ends: where it stays on its GPU the kernel ends at once and in order, with its pod, as nobody
        has anything to save of it.
    port: of the agent.

    Returns
    -------
    Parked: at the latest 55 s after the patience.

    Raises
    ------
    Owned: the agent listens to another process that is alive.
    """
    link = AgentLink(
        connection, port, instance=instance, renewal=_RENEWAL, changed=lambda _state: None
    )
    try:
        told = _told(link, context, before, vacate=vacate, watchdog=watchdog, patience=patience)
        found = await _within(patience + _BEYOND, told)
        if ends and not found.vacated:
            await link.leave()
        return found
    finally:
        await link.close()


async def _within(seconds: float, told: Awaitable[AgentState]) -> Parked:
    try:
        state = await within(seconds, told)
    except asyncio.TimeoutError:
        return Parked(False, "The kernel's agent did not answer in time.")
    if not state.parks:
        return Parked(False, "An older version has started the pod, and cannot park its kernel.")
    return Parked(state.parked, state.park_why)


async def _told(
    link: AgentLink,
    context: zmq.asyncio.Context,
    before: str,
    *,
    vacate: bool,
    watchdog: float,
    patience: float,
) -> AgentState:
    link.open(context, before)
    # Its share is held for as long: one that is not reached is not waited for.
    state = await within(_GREETING, link.greet())
    if not state.parks:
        return state
    return await link.park(vacate=vacate, watchdog=watchdog, patience=patience)
