"""The GPUs of this machine, looked at again and again, and what the ledger is told of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..._threads import in_thread
from ...allocations import Share
from ...errors import AbsentGpuError, GpuShareError
from ._contents import Claim
from ._folders import make_as_open, sweep_kernel_folders
from ._gpu import Gpu
from ._inventory import Inventory, inventory
from ._others import used_by_others
from ._outsiders import Outsider, outsiders, users_of
from ._shares import AtLedger
from ._usage import Reader, Reading

__all__ = ["Machine", "processes_of"]

_log = logging.getLogger(__name__)

#: Seconds that a look counts. GPUs are lost, split anew, and used by others.
_INTERVAL = 5.0


class Machine:
    """What one engine sees of the GPUs. All methods are for one event loop.

    Parameters
    ----------
    at_ledger: does work in the ledger's thread.
    changed: called when there may be room for who waits.
    simulate: describes GPUs to simulate; asked once.
    simulated_dir: of what kernels note down of simulated memory; asked before each reading.
    seen: told of the GPUs, and of all processes that use one without a share, at each look at real
        GPUs; without it they are not looked for.
    """

    def __init__(
        self,
        at_ledger: AtLedger,
        changed: Callable[[], None],
        simulate: Callable[[], str],
        simulated_dir: Callable[[], Path],
        seen: Callable[[Sequence[Gpu], Sequence[Outsider]], Awaitable[None]] | None = None,
    ) -> None:
        self._at_ledger = at_ledger
        self._changed = changed
        self._simulate = simulate
        self._simulated_dir = simulated_dir
        self._seen = seen
        self._looking = asyncio.Lock()
        self._look_at = 0.0
        #: As it was last seen; None before the first look.
        self.known: Inventory | None = None
        #: Bytes by uuid that are used without a share.
        self.others: dict[str, int] = {}

    async def gpus(self) -> Inventory:
        """The GPUs as they were seconds ago. Simulated ones stay as they are.

        Raises
        ------
        NoGpuError
        LedgerError
        """
        async with self._looking:
            now = asyncio.get_running_loop().time()
            known = self.known
            if known is not None and (known.simulation or now < self._look_at):
                return known
            try:
                found = await in_thread(inventory, self._simulate() or None)
            except AbsentGpuError:
                await self._lose_all()
                raise
            if known is None or known.gpus != found.gpus:
                await self._at_ledger(lambda ledger: ledger.set_gpus(found.gpus))
                self._changed()
            if known is None:
                if found.simulation:
                    await in_thread(make_as_open, self._simulated_dir())
                await in_thread(sweep_kernel_folders)
            for trouble in found.troubles:
                if known is None or trouble not in known.troubles:
                    _log.warning("%s", trouble)
            if not found.simulation and await self._at_ledger(lambda ledger: ledger.counts_others):
                await self._look_for_others(found)
            self.known = found
            self._look_at = asyncio.get_running_loop().time() + _INTERVAL
            await self._look_for_outsiders(found)
            return found

    async def follow(self) -> None:
        """Go on looking until cancelled: what others leave is room for who waits."""
        while True:
            await asyncio.sleep(_INTERVAL)
            with suppress(GpuShareError):  # told to who asks for a share
                await self.gpus()

    async def read(self, running: Mapping[str, int]) -> dict[str, Reading]:
        """Readings by kernel id, for process numbers by kernel id."""
        try:
            found = await self.gpus()
        except AbsentGpuError:
            if self.known is None:
                raise
            found = self.known  # of lost GPUs nothing is known, which their kernels are told
        reader = Reader(found, self._simulated_dir())
        return await in_thread(reader.read, running)

    async def certain(self, roots: Collection[int]) -> Mapping[str, int] | None:
        """Bytes by uuid that processes use with all that belong to them; None: not known.

        Raises
        ------
        NoGpuError, LedgerError
        """
        reader = Reader(await self.gpus(), self._simulated_dir())
        return await in_thread(reader.certain, roots)

    def news(self, share: Share, reading: Reading) -> str:
        """A line for the notebook about the GPUs of its share; empty: all is well."""
        uuids = [device.uuid for device in share.devices]
        there = {gpu.uuid for gpu in self.known.gpus} if self.known else set(uuids)
        if lost := [uuid for uuid in uuids if uuid not in there]:
            return (
                f"{lost[0]} does not answer any more: what this kernel had there is gone. Restart "
                "the kernel, and it gets another GPU."
            )
        if beside := reading.beside(uuids):
            return (
                f"This kernel uses a GPU that it has no share of ({beside[0]}), and that others "
                "may have. Leave CUDA_VISIBLE_DEVICES as it is."
            )
        return ""

    async def _lose_all(self) -> None:
        """None is left of the GPUs that were there. It is looked for them each time."""
        self._look_at = 0.0
        if self.known is not None and self.known.gpus:
            self.known = replace(self.known, gpus=())
            await self._at_ledger(lambda ledger: ledger.set_gpus(()))
            self._changed()

    async def _look_for_others(self, found: Inventory) -> None:
        claims = await self._at_ledger(lambda ledger: ledger.living())
        reader = Reader(found, self._simulated_dir())
        readings = await in_thread(reader.read, processes_of(claims))
        others = used_by_others(found.gpus, found.in_use, claims, readings)
        if others != self.others:
            self.others = others
            await self._at_ledger(lambda ledger: ledger.set_others(others))
            self._changed()

    async def _look_for_outsiders(self, found: Inventory) -> None:
        """Nobody's share depends on it, so it stands in nobody's way."""
        if self._seen is None or found.simulation:
            return
        try:
            users = await in_thread(users_of, found.gpus)
            claims = await self._at_ledger(lambda ledger: ledger.living())
            await self._seen(found.gpus, await in_thread(outsiders, users, claims))
        except GpuShareError as error:
            _log.warning("Who uses GPUs without a share is not known now: %s", error)


def processes_of(claims: Sequence[Claim]) -> dict[str, int]:
    """Process numbers of kernels by their ids, where they mean something here."""
    return {c.kernel_id: c.kernel.pid for c in claims if c.kernel and c.place.is_here}
