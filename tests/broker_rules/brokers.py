"""A broker's store in this process, on simulated GPUs and in simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from moments import Clock

from jupyter_gpu_share.broker.events import Events
from jupyter_gpu_share.broker.identity import Account
from jupyter_gpu_share.broker.store import Store
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._inventory import inventory
from jupyter_gpu_share.size import Size


def account(number: int) -> Account:
    """One of many users, whom the system does not know by name."""
    uid = 70000 + number
    return Account(uid, f"uid {uid}", frozenset())


class People:
    """Users of one store. Kernels are named by their user's number and a name."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock

    async def ask(self, user: int, name: str, size: str) -> bool:
        """Whether it is held at once."""
        row = await self.store.claim(
            account(user), name, Size.parse(size), this_process(), {"path": "n.ipynb"}
        )
        return bool(row["state"] == "held")

    async def end(self, user: int, name: str) -> None:
        assert await self.store.release(account(user), name)

    async def rows(self) -> dict[str, dict[str, Any]]:
        """All claims by user and name, such as ``3/a``."""
        rows = await self.store.everything()
        return {f"{row['info']['uid'] - 70000}/{row['kernel_id']}": row for row in rows}

    async def holding(self) -> set[str]:
        return {name for name, row in (await self.rows()).items() if row["state"] == "held"}


@asynccontextmanager
async def open_store(
    folder: Path, clock: Clock, gpus: str = "1xA100-80GB", **more: Any
) -> AsyncIterator[People]:
    """A store as a broker has it, over what an earlier one left in the folder."""
    store = Store(folder, Events(), clock=clock, **more)
    await store.open()
    try:
        found = inventory(gpus).gpus
        await store.at_ledger(lambda ledger: ledger.set_gpus(found))
        await store.sweep()
        await store.grant()
        yield People(store, clock)
    finally:
        await store.close()
