"""The table of all users' kernels: who has which, and what their servers are told of them."""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from ...errors import EngineError, NoGpuError
from ...sentences import say
from ..events import Events
from .kernel import Kernel, Making
from .presence import SILENCE, Presence, Process
from .proofs import AsksTheHub, Proofs
from .refusals import NoKernel, Refused
from .rows import View, for_caller, row_of, same
from .ruling import Key, Order, Ruling

__all__ = ["Table"]

_log = logging.getLogger(__name__)


class Table(ABC):
    """Kernels by their users, servers and ids. For one event loop.

    Parameters
    ----------
    rules, order: what the administrator decides, and who is placed when.
    kept: seconds for which the kernels of a server that is gone are kept.
    callers: asks the Hub about tokens.
    heard, silence: see :class:`.Presence`.
    lost: called when what :meth:`losses` tells has changed; must not block.
    """

    def __init__(
        self,
        make: Making,
        events: Events,
        rules: Ruling,
        order: Order,
        *,
        kept: float,
        heard: Callable[[], float] = lambda: math.inf,
        callers: AsksTheHub,
        silence: float = SILENCE,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._events = events
        self._rules = rules
        self._order = order
        self._kept = kept
        self._lost = lost
        self.presence = Presence(self._gone, heard=heard, ask=self._ask, silence=silence)
        #: Of the processes that have kernels.
        self.proofs = Proofs(callers, self.presence.refused)
        self._kernels: dict[Key, Kernel] = {}
        #: Whose kernels have an id. Several servers may: an id is the client's choice, so nobody
        #: can take one away from somebody else, nor find out by it what others have.
        self._ids: dict[str, dict[Key, None]] = {}
        #: By server, so that nobody's rows are looked for among everybody's.
        self._servers: dict[tuple[str, str], dict[str, Kernel]] = {}
        #: Those that are on their way out, by key.
        self._leaving: dict[Key, set[Kernel]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[Kernel]:
        return iter(list(self._kernels.values()))

    def __len__(self) -> int:
        return len(self._kernels)

    def get(self, key: Key) -> Kernel | None:
        """A kernel; None where there is none."""
        return self._kernels.get(key)

    def rows(self, user: str, server: str, instance: str = "") -> list[dict[str, Any]]:
        """All kernels of one server, as its process ``instance`` is told of them."""
        return [
            for_caller(self._row(kernel), instance)
            for kernel in self._servers.get((user, server), {}).values()
        ]

    def by_object(self, kernel_id: str, its: Mapping[str, Any]) -> Kernel | None:
        """The kernel whose an object in the cluster is; None: no kernel's that is known.

        Parameters
        ----------
        kernel_id: as the object tells it. Kernels of several servers may have it.
        """
        kernels = (self._kernels[key] for key in self._ids.get(kernel_id, ()))
        return next((each for each in kernels if each.objects.owns(dict(its))), None)

    def of_user(self, user: str) -> list[Kernel]:
        """All kernels of a user, over all of their servers."""
        return [
            kernel
            for (whose, _), kernels in self._servers.items()
            if whose == user
            for kernel in kernels.values()
        ]

    def has_kernels(self, process: Process) -> bool:
        """Whether a process has kernels that live."""
        servers = self._servers.get((process.user, process.server), {})
        return any(
            each.instance == process.instance and not each.phase.over for each in servers.values()
        )

    def prove(self, process: Process, token: str) -> None:
        """A process was proven by a token: the Hub can be asked about it while it has kernels."""
        if self.presence.alive(process) and self.has_kernels(process):
            self.proofs.keep(process, token)
        else:
            self.proofs.forget(process)

    def _ask(self, process: Process) -> None:
        if self.has_kernels(process):
            self.proofs.ask(process)
        else:
            self.proofs.forget(process)

    def knows(self, process: Process, kernel_id: str, attempt: str) -> bool:
        """Whether this very start was asked for before."""
        kernel = self._kernels.get(Key(process.user, process.server, kernel_id))
        return kernel is not None and kernel.attempt == attempt

    def row(self, kernel: Kernel, instance: str) -> dict[str, Any]:
        """One kernel, as the process ``instance`` of its server is told of it."""
        return for_caller(self._row(kernel), instance)

    def own(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """A kernel of this very process.

        Raises
        ------
        NoKernel: there is none, or none of this server. Of others' it is not even told.
        Refused: another process has it, or it is another start of it.
        """
        kernel = self.of_server(process, kernel_id)
        if kernel.instance != process.instance:
            raise Refused("Another process of your server has this kernel.")
        if kernel.attempt != attempt:
            raise Refused("The kernel was started again since; ask for its row.")
        return kernel

    def of_server(self, process: Process, kernel_id: str) -> Kernel:
        """A kernel of this server, whichever of its processes has it.

        Raises
        ------
        NoKernel
        """
        kernel = self._kernels.get(Key(process.user, process.server, kernel_id))
        if kernel is None:
            raise NoKernel(say("has-no-such-kernel"))
        return kernel

    def view(self, kernel: Kernel) -> View:
        """All that is told of a kernel."""
        objects = kernel.objects
        return View(
            kernel_id=kernel.key.kernel_id,
            attempt=kernel.attempt,
            name=objects.name,
            size=kernel.plan.size,
            kernel_name=kernel.plan.kernel_name,
            path=kernel.plan.path,
            phase=kernel.phase,
            instance=kernel.instance,
            alive=self.presence.holds(kernel.process),
            reason=kernel.reason,
            queue=kernel.queue,
            share=objects.share,
            note=objects.note,
            address=kernel.address,
            detachable=objects.detachable,
            unanswered=objects.unanswered,
            lost=objects.lost,
            removal=objects.removal,
            ended=kernel.ended,
            failed=kernel.failed,
            lost_work=kernel.lost_work,
        )

    def _row(self, kernel: Kernel) -> dict[str, Any]:
        return row_of(self.view(kernel))

    def changed(self, kernel: Kernel) -> None:
        """Something of a kernel may have changed: its server is told if there is anything new."""
        if self._kernels.get(kernel.key) is not kernel:
            return
        row = self._row(kernel)
        if same(row, kernel.told):
            return
        kernel.told = row
        self._events.publish((kernel.key.user, kernel.key.server), "row", {"row": row})
        if row["unanswered"] and (kernel.settling is None or kernel.settling.done()):
            kernel.settling = self._spawn(self._when_settled(kernel))

    async def _when_settled(self, kernel: Kernel) -> None:
        await kernel.objects.settled()
        self.changed(kernel)

    def _put(self, kernel: Kernel) -> None:
        key = kernel.key
        self._kernels[key] = kernel
        self._ids.setdefault(key.kernel_id, {})[key] = None
        self._servers.setdefault((key.user, key.server), {})[key.kernel_id] = kernel

    def _drop(self, kernel: Kernel) -> None:
        key = kernel.key
        del self._kernels[key]
        del self._ids[key.kernel_id][key]
        if not self._ids[key.kernel_id]:
            del self._ids[key.kernel_id]
        rows = self._servers[(key.user, key.server)]
        del rows[key.kernel_id]
        if not rows:
            del self._servers[(key.user, key.server)]

    def _spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._spent)
        return task

    def _spent(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, EngineError | NoGpuError):
                _log.warning("What was begun for a kernel came to nothing: %s", error)
            else:
                _log.error("What was begun for a kernel came to nothing", exc_info=error)

    @abstractmethod
    def _gone(self, process: Process) -> None:
        """A process is gone."""
