"""One kernel of one user: what it has in the cluster, and where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ...allocations import QueuePosition
from ...engines.base import Connection, Exit, Report
from ...engines.kubernetes._objects import KernelPlan, Objects, Owner, Unfinished
from .presence import Process
from .rows import Failure, Phase
from .ruling import Key

__all__ = ["Kernel", "Making", "Unfinished", "WatchedObjects"]


class WatchedObjects(Objects, Protocol):
    """The objects of a kernel, in the process that watches the cluster."""

    @property
    def address(self) -> str:
        """Of the pod; empty before it has one."""

    @property
    def held_back(self) -> bool:
        """Whether no scheduler looks at the pod yet."""

    async def make(self, *, held_back: bool = False) -> None:
        """Create all that is written at once, and forget the keys.

        Parameters
        ----------
        held_back: no scheduler is to look at it before :meth:`come_up`.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError
        """

    async def come_up(self, report: Report) -> str:
        """Wait for the share, and until the container runs; the pod's address.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError
        """

    async def recall(self) -> bool:
        """Find out how far a pod is that an earlier broker has made, without a word to its owner.

        True where its container runs, with its share, or without one that was given back; else
        :meth:`come_up` goes on with it.

        Raises
        ------
        Unfinished: it was not made to its end, and cannot be any more: its keys are lost.
        KernelStartError, EngineError
        """

    async def delete(self, *, grace: int = 1) -> None:
        """See :class:`Objects`; the pod has ``grace`` seconds to end in order."""

    async def connection(self, ip: str) -> Connection:
        """What the kernel's Secret holds, read now; to an address of its pod.

        Raises
        ------
        EngineError: there is none.
        """

    async def annotate(self, words: Mapping[str, str | None]) -> None:
        """Write annotations on the pod, by their whole names; None takes one away.

        Raises
        ------
        EngineError
        """

    def look(self, gone: dict[str, Any] | None = None) -> None:
        """The pod, one of its claims, or the queue may have changed."""

    def appeared(self, name: str) -> None:
        """An object of the kernel's is new in the cluster."""

    def owns(self, obj: dict[str, Any]) -> bool:
        """Whether an object with this kernel's id is one of its own."""

    def also_of(self, other: Any) -> None:
        """The pod may be that of ``other``, too, which has asked for it and was not answered."""


class Making(Protocol):
    """Makes the objects of a kernel, in memory alone; ``name`` is of a pod that is there."""

    def __call__(self, owner: Owner, plan: KernelPlan, name: str = "") -> WatchedObjects: ...


@dataclass(eq=False)
class Kernel:
    """One kernel of one user. The registry alone changes it.

    Attributes
    ----------
    plan: what it was made from, without its keys once they are in its Secret.
    instance: the process of its server that has it.
    groups: of the user, as they were proven last.
    asked: when it was asked for, aware; None where nobody knows.
    born: when its user was made, by the Hub's word; empty where that is not known.
    lost_work: what its end has cost, a sentence; the row is kept for the next process to tell.
    vacated: by the last word of its process nothing of it is on the GPU.
    unheard: it has ended, and none of its server's processes was told so far.
    up: its container runs, or has.
    was_lent: it had no share when it was taken over, and has none again yet.
    work: what goes on for long: a start, or taking the share.
    watching: waits for the end of the pod.
    settling: waits for writes to the cluster whose outcome is not known.
    later: what is done when the kernel was kept for long enough without its server.
    begun: set when what a start writes is written, or found; or when it came to nothing.
    told: the row that was told last.
    """

    key: Key
    attempt: str
    plan: KernelPlan
    instance: str
    objects: WatchedObjects
    groups: frozenset[str] = frozenset()
    asked: datetime | None = None
    born: str = ""
    phase: Phase = Phase.WAITING
    reason: str = ""
    queue: QueuePosition | None = None
    address: str | None = None
    ended: Exit | None = None
    failed: Failure | None = None
    lost_work: str = ""
    vacated: bool = False
    unheard: bool = False
    up: bool = False
    was_lent: bool = False
    work: asyncio.Task[None] | None = None
    watching: asyncio.Task[None] | None = None
    settling: asyncio.Task[None] | None = None
    later: asyncio.TimerHandle | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: dict[str, Any] | None = None

    @property
    def process(self) -> Process:
        """The process of its server that has it."""
        return Process(self.key.user, self.key.server, self.instance)

    @property
    def busy(self) -> bool:
        """Whether something goes on for long."""
        return self.work is not None and not self.work.done()
