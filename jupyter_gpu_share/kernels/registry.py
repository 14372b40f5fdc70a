"""All kernels of one process: by id, what may be asked of them, and whose idle share goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..allocations import Allocation, AllocationTable, State
from ..engines.base import Engine
from ..engines.idle_shares import AskedBack, IdleShare
from ..errors import GpuShareError, NotPossible
from ..idle import IdlePolicy
from ..relay import Relay
from ..sentences import say
from ._checkpoint import Keeper
from ._context import WorkContext
from ._turns import turns
from .controller import Surroundings
from .kernel import Kernel
from .reclaim import chosen

__all__ = ["Registry"]

_log = logging.getLogger(__name__)


class Registry(Mapping[str, Kernel]):
    """The kernels of this process by id. Changed on the runtime's loop only.

    Parameters
    ----------
    cull: ends a kernel as a user would; posts the wish and returns.
    """

    def __init__(
        self,
        table: AllocationTable,
        policy: IdlePolicy,
        loop: asyncio.AbstractEventLoop,
        cull: Callable[[str], None],
    ) -> None:
        self._table = table
        self._policy = policy
        self._loop = loop
        self._cull = cull
        self._kernels: dict[str, Kernel] = {}
        self._closing: set[Kernel] = set()

    def __getitem__(self, kernel_id: str) -> Kernel:
        return self._kernels[kernel_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._kernels))

    def __len__(self) -> int:
        return len(self._kernels)

    def add(
        self,
        kernel_id: str,
        engine: Engine,
        relay: Relay,
        *,
        folder: Path,
        root: str | None,
        session: str,
        start_timeout: float,
    ) -> Kernel:
        """Have a controller for a kernel whose relay is bound; it closes the relay.

        Parameters
        ----------
        folder: for saved variables.
        root: folder of notebooks of the Jupyter server; None where there is none.
        session: under which Jupyter's own manager of the kernel sends messages.
        start_timeout: seconds that a kernel with a share has to answer.
        """
        keeper = Keeper(relay, engine, kernel_id, folder=folder, policy=self._policy)
        context = WorkContext(kernel_id, engine, relay, keeper, start_timeout)
        surroundings = Surroundings(
            self._table, self._policy, self._loop, self._cull, root=root, session=session
        )
        controller = Kernel(context, surroundings)
        relay.events = controller
        self._kernels[kernel_id] = controller
        return controller

    async def close(self, controller: Kernel, *, park: bool = False) -> None:
        """End a kernel, give its share back and close its relay. Idempotent."""
        if self._kernels.get(controller.kernel_id) is controller:
            del self._kernels[controller.kernel_id]
        self._closing.add(controller)
        try:
            await controller.close(park=park)
        finally:
            self._closing.discard(controller)

    def find(self, kernel_id: str) -> Kernel:
        """The controller of a kernel.

        Raises
        ------
        NotPossible: there is none.
        """
        controller = self._kernels.get(kernel_id)
        if controller is None:
            raise NotPossible(say("no-such-kernel"))
        return controller

    def allocation(self, kernel_id: str) -> Allocation:
        """The allocation of a kernel.

        Raises
        ------
        NotPossible: there is none.
        """
        allocation = self._table.get(kernel_id)
        if allocation is None or allocation.state is State.ENDED:
            raise NotPossible(say("ended-just-now"))
        return allocation

    async def keep(self, kernel_id: str, until: datetime | None) -> None:
        """Keep a share until a moment even if unused; None takes that back.

        Raises
        ------
        NotPossible: no such kernel, or a moment past the administrator's limit.
        """
        controller = self.find(kernel_id)
        now = datetime.now(timezone.utc)
        if until is not None and until > now + self._policy.longest_keep:
            hours = self._policy.keep_limit / 3600
            raise NotPossible(say("keep-limit", hours=hours))
        controller.keep(until)

    def history(self, kernel_id: str) -> dict[str, Any]:
        """What a kernel held and used over the last hour, as REST tells it.

        Raises
        ------
        NotPossible: there is none.
        """
        return self.find(kernel_id).history.to_json(kernel_id, datetime.now(timezone.utc))

    # -- all of an engine's kernels ------------------------------------------------------------

    async def look(self, engine: Engine) -> None:
        """Bring an engine's readings to its kernels, and see who waits for a share.

        Called every ``usage_interval`` seconds.
        """
        kernels = {key: each for key, each in self._kernels.items() if each.engine is engine}
        if not kernels:
            return
        try:
            busy = frozenset(key for key, each in kernels.items() if each.busy)
            readings = await engine.usage(busy)
        except GpuShareError as error:
            _log.warning("%s", error)
        except Exception:
            _log.exception("The use of the GPUs could not be read")
        else:
            for key, usage in readings.items():
                if key in kernels:
                    kernels[key].reading(usage)
        try:
            await self._reclaim(engine, kernels)
        except GpuShareError as error:
            _log.warning("%s", error)
        except Exception:
            _log.exception("It could not be seen who waits for a share")

    async def _reclaim(self, engine: Engine, kernels: Mapping[str, Kernel]) -> None:
        """Have the idle rules know which shares somebody waits for."""
        unused = {key: each.situation for key, each in kernels.items() if each.unused}
        # What is on its way already goes for others first; to save variables may take long.
        leaving = {key: each.situation for key, each in kernels.items() if each.leaving}
        idle = {
            key: IdleShare(one.idle_since, one.keep_until, one.kept, leaving=key in leaving)
            for key, one in {**unused, **leaving}.items()
        }
        asked = await engine.wanted(idle)
        if asked is None:
            asked = {}
            if unused and (snapshot := await engine.snapshot()) is not None:
                order = self._policy.order(unused.items())
                asked = dict.fromkeys(chosen(snapshot, [*leaving, *order]), AskedBack())
        for key, each in kernels.items():
            each.wanted_by_others(asked.get(key))

    async def outlook(self, engine: Engine) -> tuple[datetime | None, dict[str, datetime]]:
        """When the next idle share goes back, and when kernels that wait may have one, by their id.

        It is about kernels of this process alone. What is not known is left out.

        Raises
        ------
        EngineError
        """
        kernels = {key: each for key, each in self._kernels.items() if each.engine is engine}
        leaving = [(at, key) for key, each in kernels.items() if (at := each.leaves_at)]
        if not leaving:
            return None, {}
        soonest = min(at for at, _ in leaving)
        snapshot = await engine.snapshot()
        expected = turns(snapshot, leaving) if snapshot is not None else {}
        return soonest, {key: at for key, at in expected.items() if key in kernels}

    # -- the end -------------------------------------------------------------------------------

    async def close_all(self, *, park: bool = False) -> None:
        """End all kernels but the independent ones, all at once.

        Parameters
        ----------
        park: what was kept of those whose share was given back is left for the next server.
        """
        ending = [each for each in self._kernels.values() if not each.independent]
        outcomes = await asyncio.gather(
            *(self.close(each, park=park) for each in [*ending, *self._closing]),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                _log.error("A kernel could not be ended properly", exc_info=outcome)
