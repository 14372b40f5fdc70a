"""A fake of the objects of kernels: what the registry asks of a cluster, without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

from jupyter_gpu_share.allocations import Device, Isolation, QueuePosition, Share
from jupyter_gpu_share.broker.cluster.ruling import Key, Wish
from jupyter_gpu_share.engines.base import Connection, Exit, Removal, Report, Starting, Waiting
from jupyter_gpu_share.engines.kubernetes._names import SERVER, label
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys, Owner, Unfinished
from jupyter_gpu_share.engines.kubernetes.api import Unreachable
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

SHARE = Share((Device("GPU-1", "fake", "node"),), 2**30, Fraction(1, 4), Isolation.NONE)
KEY = "0123456789abcdef0123456789abcdef"


class FakeCluster:
    """What all fake objects have in common: pods by name, and how the cluster behaves."""

    def __init__(self) -> None:
        self.made: list[FakeObjects] = []
        self.pods: dict[str, FakeObjects] = {}
        #: Names of all pods that were created, whatever became of them.
        self.created: list[str] = []
        self.room = asyncio.Event()
        self.room.set()
        #: Closed while the API does not answer.
        self.answers = asyncio.Event()
        self.answers.set()
        self.detachable = True
        #: Pods that have ended, by name.
        self.over: dict[str, Exit] = {}
        self.refuses_give_back = False
        #: What the cluster answers first when a share is given back.
        self.not_now: list[Exception] = []
        #: How many times the answer is lost that a pod was taken over.
        self.lost_adoptions = 0
        #: What the cluster answers first when it is looked for what holds a share.
        self.unsettled: list[Exception] = []

    def make(self, owner: Owner, plan: KernelPlan, name: str = "") -> FakeObjects:
        return FakeObjects(self, owner, plan, name)


class FakeObjects:
    """One kernel's."""

    def __init__(self, cluster: FakeCluster, owner: Owner, plan: KernelPlan, name: str) -> None:
        self.cluster, self.owner, self.plan = cluster, owner, plan
        self.name = name or f"pod-{len(cluster.made)}"
        self.share: Share | None = None
        self.note = ""
        self.lent = False
        self.lost = False
        self.made = False
        self.up = False
        self.unanswered = False
        self.removal: Removal | None = None
        self.grace: int | None = None
        self.annotations: dict[str, str | None] = {}
        self.closed = False
        self.also: set[str] = set()
        #: As real ones they know of their share when they have settled.
        self.adopted = self.was_lent = False
        self.on_leave: Callable[[], None] = lambda: None
        self.on_make: Callable[[], object] = lambda: None
        self.gone_keys: Keys | None = plan.keys
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._removed = asyncio.Event()
        cluster.made.append(self)

    @property
    def there(self) -> bool:
        return self.name in self.cluster.pods and not self.lost and self.removal is None

    @property
    def detachable(self) -> bool:
        return self.up and self.cluster.detachable and not self.adopted

    async def start(self, report: Report) -> Connection:
        raise AssertionError("the registry makes it and has it come up")

    async def make(self, *, held_back: bool = False) -> None:
        self.made = True
        self.on_make()
        self.held_back = held_back
        await self.cluster.answers.wait()
        self.plan = replace(self.plan, keys=None)
        self.cluster.pods[self.name] = self
        self.cluster.created.append(self.name)

    async def come_up(self, report: Report) -> str:
        report(Waiting(QueuePosition(1, 1), "No room."))
        await self._or_end(self.cluster.room.wait())
        self.share = SHARE
        report(Starting(SHARE))
        self.up = True
        return "10.0.0.1"

    async def _or_end(self, waiting: Any) -> None:
        doing = asyncio.ensure_future(waiting)
        ended = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise EngineError(f"The kernel could not start. {ended.result().reason}")
        finally:
            doing.cancel()
            ended.cancel()

    address = "10.0.0.1"
    held_back = False

    async def recall(self) -> bool:
        if self.name not in self.cluster.pods:
            raise Unfinished("The broker began anew while the kernel started.")
        await asyncio.sleep(0.01)  # it asks the cluster
        if self.cluster.unsettled:
            raise self.cluster.unsettled.pop()
        before = self.cluster.pods[self.name]
        self.made, self.share, self.lent = True, before.share, before.lent
        self.cluster.pods[self.name] = self
        self.up = before.up and self.name not in self.cluster.over
        return self.up

    async def adopt(self, before: str, report: Report) -> Connection:
        last = self.cluster.pods.get(self.name)
        if last is None or last.owner.instance not in (before, self.owner.instance, *self.also):
            raise EngineError("Another Jupyter server of the same name runs this kernel.")
        self.cluster.pods[self.name] = self
        if self.cluster.lost_adoptions:
            self.cluster.lost_adoptions -= 1
            raise Unreachable("The Kubernetes API did not answer.")
        last.lost = True
        last.end(Exit(-9, "taken over"))
        self.made, self.up, self.adopted, self.was_lent = (
            True,
            True,
            True,
            last.lent or last.was_lent,
        )
        return Keys(KEY.encode()).connection("10.0.0.2")

    async def connection(self, ip: str) -> Connection:
        return Keys(KEY.encode()).connection(ip)

    async def settle(self, report: Report) -> None:
        if self.cluster.unsettled:
            raise self.cluster.unsettled.pop()
        self.adopted, self.lent = False, self.was_lent
        if self.lent:
            report(Waiting(QueuePosition(1, 1), "No room."))
            self.lent = False  # it is asked for, and stays so if nobody gives it back
            await self._or_end(self.cluster.room.wait())
        self.share = SHARE

    async def give_back(self) -> None:
        if self.cluster.not_now:
            raise self.cluster.not_now.pop()
        if self.cluster.refuses_give_back:
            raise EngineError("The cluster refuses that.")
        self.lent = True

    async def take_back(self, report: Report) -> Share:
        report(Waiting(QueuePosition(1, 1), "No room."))
        await self._or_end(self.cluster.room.wait())
        self.lent = False
        return SHARE

    async def planned(self, size: Size) -> tuple[Share, bool] | None:
        return SHARE, True

    async def change(self, size: Size) -> Share:
        self.plan = replace(self.plan, size=size)
        return SHARE

    async def annotate(self, words: Mapping[str, str | None]) -> None:
        self.annotations |= words

    async def note_path(self, path: str | None) -> None:
        self.plan = replace(self.plan, path=path)

    def remove(self, reason: str) -> None:
        self.removal = Removal(reason, 100.0)
        self._removed.set()

    async def removed(self) -> Removal:
        await self._removed.wait()
        assert self.removal is not None
        return self.removal

    def let_go(self) -> None:
        self.on_leave()

    def leaving(self, grace: float) -> None:
        self.remove(f"leaving {grace}")

    def end(self, how: Exit) -> None:
        if not self._end.done():
            self._end.set_result(how)

    async def ended(self) -> Exit:
        return await asyncio.shield(self._end)

    async def delete(self, *, grace: int = 1) -> None:
        self.grace = grace
        self.end(Exit(-9, "The kernel was shut down."))
        self.unanswered = True
        if self.cluster.answers.is_set():
            self._deleted()

    def _deleted(self) -> None:
        pod = self.cluster.pods.get(self.name)
        if pod is not None and pod.owner.instance in (self.owner.instance, *self.also):
            del self.cluster.pods[self.name]
        self.made = self.unanswered = False

    async def settled(self, patience: float | None = None) -> bool:
        await self.cluster.answers.wait()
        if self.unanswered:
            self._deleted()
        return True

    async def last_words(self, lines: int = 10) -> str:
        return "last words"

    async def close(self) -> None:
        self.closed = True

    def also_of(self, other: FakeObjects) -> None:
        self.also |= {other.owner.instance, *other.also}

    def look(self, gone: dict[str, Any] | None = None) -> None:
        pod = self.cluster.pods.get(self.name)
        if pod is not None and pod.owner.instance not in (self.owner.instance, *self.also):
            self.lost = True
            self.end(Exit(-9, "taken over"))
        if self.name in self.cluster.over:
            self.end(self.cluster.over[self.name])

    def appeared(self, name: str) -> None:
        pass

    def owns(self, obj: dict[str, Any]) -> bool:
        return label(obj, SERVER) == self.owner.server


class FakeRules:
    """Permits everything, and remembers what is held; ``most`` kernels at once where it is set."""

    def __init__(self) -> None:
        self.held: dict[Key, Size] = {}
        self.lent: set[Key] = set()
        self.most: int | None = None
        #: Of who asked last for each.
        self.groups: dict[Key, frozenset[str]] = {}
        #: Since when each waits, by who asked last; None: from then on.
        self.asked: dict[Key, datetime | None] = {}
        #: By which process, and as which of its starts.
        self.numbers: dict[Key, tuple[str, int | None]] = {}

    def why_not(self, wish: Wish) -> str | None:
        others = self.held.keys() - self.lent - {wish.key}
        if self.most is not None and len(others) >= self.most:
            return f"You may hold {self.most} shares."
        return None

    def reserve(self, wish: Wish, *, anew: bool = False) -> str | None:
        self.groups[wish.key], self.asked[wish.key] = wish.groups, wish.asked_at
        self.numbers[wish.key] = wish.process, wish.number
        refusal = self.why_not(wish)
        if refusal is None:
            self.held[wish.key] = wish.size
            self.lent.discard(wish.key)
        return refusal

    def holds(self, key: Key, size: Size | None = None) -> None:
        assert key in self.held
        if size is not None:
            self.held[key] = size

    def gave_back(self, key: Key) -> None:
        self.lent.add(key)

    def drop(self, key: Key) -> None:
        self.held.pop(key, None)
        self.lent.discard(key)


class FakeOrder:
    """Lets everybody through, unless a test closes the gate."""

    def __init__(self) -> None:
        self.active = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.hidden: list[Key] = []

    async def wait(self, key: Key, report: Report) -> None:
        if not self.gate.is_set():
            report(Waiting(QueuePosition(1, 2), "Not yet."))
        await self.gate.wait()

    def kept_back(self, key: Key) -> None:
        self.hidden.append(key)
