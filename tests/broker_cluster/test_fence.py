"""The fence against a fake of the API: never two brokers that write, none that waits for ever."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from fake_hub import Clock
from waiting import eventually

from jupyter_gpu_share.broker.cluster import fence as module
from jupyter_gpu_share.broker.cluster.fence import NAME, Fence, FenceLost
from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines.kubernetes.api import (
    AlreadyExists,
    Conflict,
    Forbidden,
    KubeApi,
    NotFound,
    ServerTrouble,
    Unreachable,
)

PROCESS = "gpu-share.jupyter.org/process"


class FakeLeases:
    """One Lease, as the API server has it; it can be away, and lose answers."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away: Exception | None = None
        #: Do the next write and say nothing of it.
        self.lose_answer = False

    async def get(self, resource: Any, name: str, namespace: str | None = None) -> Any:
        await self._way()
        if self.lease is None:
            raise NotFound("no such lease")
        return copy.deepcopy(self.lease)

    async def create(self, resource: Any, body: Any, namespace: str | None = None) -> Any:
        await self._way()
        if self.lease is not None:
            raise AlreadyExists("it is there")
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["uid"] = f"uid-{self.version}"
        return self._written()

    async def patch(self, resource: Any, name: str, body: Any, namespace: str | None = None) -> Any:
        await self._way()
        if self.lease is None:
            raise NotFound("no such lease")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("it has changed")
        self.lease["metadata"].get("annotations", {}).update(
            body["metadata"].get("annotations") or {}
        )
        self.lease["spec"].update(body["spec"])
        return self._written()

    def _written(self) -> Any:
        assert self.lease is not None
        self.version += 1
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        if self.lose_answer:
            self.lose_answer = False
            raise Unreachable("the answer is lost")
        return copy.deepcopy(self.lease)

    async def _way(self) -> None:
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Pauses:
    """Time that passes only when it is told to; who pauses waits for it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._waiting: list[tuple[float, asyncio.Event]] = []

    async def __call__(self, seconds: float) -> None:
        event = asyncio.Event()
        self._waiting.append((self.clock.now + seconds, event))
        await event.wait()

    async def pass_(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while True:
            await settle()
            due = [each for each in self._waiting if each[0] <= end]
            if not due:
                break
            first = min(due, key=lambda each: each[0])
            self._waiting.remove(first)
            self.clock.now = max(self.clock.now, first[0])
            first[1].set()
        self.clock.now = end
        await settle()


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


class World:
    """Brokers before one API. Each has a clock of its own, so that one can be stopped."""

    def __init__(self) -> None:
        self.api = FakeLeases()
        self.tasks: list[asyncio.Task[None]] = []

    def broker(self, **environ: str) -> tuple[Fence, Pauses]:
        clock = Clock()
        pauses = Pauses(clock)
        return Fence(self.api, "kernels", clock, pauses, environ), pauses

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def world() -> Any:
    made = World()
    yield made
    await made.close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other broker's process is of another machine: nobody here can say that it is dead."""
    plain = Fence._body

    def body(self: Fence) -> dict[str, Any]:
        made = plain(self)
        told = json.loads(made["metadata"]["annotations"][PROCESS])
        told["place"]["boot"] = f"boot-of-{self.identity}"
        made["metadata"]["annotations"][PROCESS] = json.dumps(told)
        return made

    monkeypatch.setattr(Fence, "_body", body)


async def test_the_first_broker_holds_at_once_and_goes_on(world: World) -> None:
    own, pauses = world.broker()
    with pytest.raises(Unreachable):
        own.check()
    await own.take()
    keeping = world.start(own.keep())
    for _ in range(50):
        await pauses.pass_(3)
        own.check()
    assert not keeping.done() and world.api.holder == own.identity


async def test_another_one_waits_and_says_so_once(
    world: World, elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    first, of_first = world.broker()
    second, of_second = world.broker()
    await first.take()
    world.start(first.keep())
    taking = world.start(second.take())
    for _ in range(40):
        await of_first.pass_(3)
        await of_second.pass_(3)
        assert first.held and not second.held
    assert not taking.done()
    assert caplog.text.count(f"{first.identity} works in the namespace kernels") == 1


async def test_a_dead_one_is_followed_after_the_time_that_its_lease_counts(
    world: World, elsewhere: None
) -> None:
    first, _ = world.broker()
    second, pauses = world.broker()
    await first.take()
    taking = world.start(second.take())
    await pauses.pass_(15)
    assert not taking.done()
    await pauses.pass_(6)
    assert taking.done() and second.held and world.api.holder == second.identity


async def test_one_that_ended_in_good_order_is_followed_at_once(
    world: World, elsewhere: None
) -> None:
    first, _ = world.broker()
    await first.take()
    await first.release()
    assert not first.held
    second, _ = world.broker()
    await second.take()
    assert second.held


async def test_one_that_was_stopped_writes_no_more_and_ends(world: World, elsewhere: None) -> None:
    """As by SIGSTOP: its clock has gone on, and nothing else of it."""
    first, of_first = world.broker()
    second, of_second = world.broker()
    await first.take()
    keeping = world.start(first.keep())
    world.start(second.take())
    await of_second.pass_(21)
    assert second.held
    of_first.clock.now += 21
    with pytest.raises(Unreachable):  # before it knows anything
        first.check()
    await of_first.pass_(3)
    with pytest.raises(FenceLost, match=second.identity):
        await keeping
    with pytest.raises(FenceLost, match="The broker ends"):
        first.check()
    second.check()


async def test_an_api_that_is_away_ends_nobody(world: World) -> None:
    own, pauses = world.broker()
    await own.take()
    keeping = world.start(own.keep())
    world.api.away = Unreachable("away")
    await pauses.pass_(9)
    own.check()
    await pauses.pass_(60)
    with pytest.raises(Unreachable, match="writes nothing") as refused:
        own.check()
    assert not refused.value.unsure, "nothing was sent"
    world.api.away = None
    await pauses.pass_(4)
    own.check()
    assert not keeping.done()


async def test_a_lease_that_is_gone_is_lost(world: World) -> None:
    own, pauses = world.broker()
    await own.take()
    keeping = world.start(own.keep())
    world.api.lease = None
    await pauses.pass_(4)
    with pytest.raises(FenceLost, match="is gone"):
        await keeping
    assert not own.held


async def test_a_renewal_whose_answer_is_lost_is_no_loss(world: World) -> None:
    own, pauses = world.broker()
    await own.take()
    keeping = world.start(own.keep())
    world.api.lose_answer = True
    for _ in range(4):
        await pauses.pass_(3)
        own.check()
    assert not keeping.done()


async def test_a_taking_whose_answer_is_lost_is_found(world: World) -> None:
    own, pauses = world.broker()
    world.api.lose_answer = True
    taking = world.start(own.take())
    await pauses.pass_(4)
    assert taking.done() and own.held


async def test_a_start_waits_for_the_api_but_not_for_a_right(world: World) -> None:
    own, pauses = world.broker()
    world.api.away = ServerTrouble("it has trouble")
    taking = world.start(own.take())
    await pauses.pass_(30)
    assert not taking.done()
    world.api.away = None
    await pauses.pass_(4)
    assert taking.done()
    world.api.away = Forbidden("no right")
    with pytest.raises(Forbidden):
        await world.broker()[0].take()


async def test_a_dead_process_of_this_place_is_followed_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = world.broker()
    await first.take()
    second, pauses = world.broker()
    taking = world.start(second.take())
    await pauses.pass_(3)
    assert not taking.done(), "it lives"
    assert world.api.lease is not None
    notes = world.api.lease["metadata"]["annotations"]
    notes[PROCESS] = json.dumps({**json.loads(notes[PROCESS]), "start": "1"})
    await pauses.pass_(4)
    assert taking.done()


async def test_the_container_before_in_the_same_pod_has_ended(world: World) -> None:
    async def taken(mine: str, theirs: str, *, same: bool) -> bool:
        world.api.lease = None
        first, _ = world.broker(POD_UID=theirs)
        await first.take()
        assert world.api.lease is not None
        notes = world.api.lease["metadata"]["annotations"]
        told = json.loads(notes[PROCESS])
        if not same:
            told["place"]["namespace"] = f"not-{here().namespace}"
        notes[PROCESS] = json.dumps(told)
        second, pauses = world.broker(POD_UID=mine)
        taking = world.start(second.take())
        await pauses.pass_(4)
        return taking.done()

    assert await taken("pod-1", "pod-1", same=False)
    assert not await taken("pod-1", "pod-2", same=False)
    assert not await taken("", "", same=False)
    assert not await taken("pod-1", "pod-1", same=True), "both are processes of one container"


@pytest.mark.parametrize("seed", range(12))
async def test_never_two_who_may_write(world: World, elsewhere: None, seed: int) -> None:
    """Brokers that are stopped, cut off, ended and started, in any order."""
    chance = random.Random(seed)
    brokers: list[tuple[Fence, Pauses, asyncio.Task[None]]] = []

    async def life(own: Fence) -> None:
        await own.take()
        await own.keep()

    served = 0
    for _ in range(120):
        if len(brokers) < 3:
            own, pauses = world.broker()
            brokers.append((own, pauses, world.start(life(own))))
        what = chance.random()
        if what < 0.1:
            brokers.pop(chance.randrange(len(brokers)))[2].cancel()
        elif what < 0.15:
            world.api.away = None if world.api.away else Unreachable("away")
        elif what < 0.2:
            world.api.lose_answer = True
        seconds = chance.choice([1, 3, 8])
        stopped = chance.randrange(len(brokers)) if what > 0.8 else None
        for number, (_, pauses, _) in enumerate(brokers):
            if number == stopped:
                pauses.clock.now += seconds  # its clock goes on
            else:
                await pauses.pass_(seconds)
            writers = [own for own, _, _ in brokers if own.held]
            # Their clocks are moved one after the other, so who comes later is behind by a step.
            later = [own for n, (own, _, _) in enumerate(brokers) if n > number]
            assert len([own for own in writers if own not in later]) <= 1
        brokers = [each for each in brokers if not each[2].done()]
        served += sum(own.held for own, _, _ in brokers)
        assert sum(own.held for own, _, _ in brokers) <= 1
    assert served > 10


async def test_a_guard_is_asked_before_each_write_and_no_read() -> None:
    asked: list[str] = []

    class Transport:
        async def read(self, method: str, *_: Any, **__: Any) -> bytes:
            asked.append(method)
            return b'{"metadata": {"name": "a"}}'

    async def opened() -> None:
        return None

    api = KubeApi()
    api._transport = Transport()  # type: ignore[assignment]
    api._access.open = opened  # type: ignore[method-assign]

    def refuse() -> None:
        raise FenceLost("The broker ends.")

    api.guard = refuse
    await api.get(module.LEASES, "a", "b")
    writes: list[Callable[[], Awaitable[Any]]] = [
        lambda: api.create(module.LEASES, {"metadata": {"name": "a"}}, "b"),
        lambda: api.patch(module.LEASES, "a", {}, "b"),
        lambda: api.delete(module.LEASES, "a", "b"),
    ]
    for write in writes:
        with pytest.raises(FenceLost):
            await write()
    assert asked == ["GET"]
    api.guard = lambda: None
    for write in writes:
        await write()
    assert asked == ["GET", "POST", "PATCH", "DELETE"]
    await api.close()


def test_who_waits_waits_longer_than_anybody_writes() -> None:
    assert module._WRITES + module._ANSWER < module._VALID
    assert module.NAME == NAME
    assert module._RENEWAL + module._ANSWER < module._WRITES


async def test_a_hang_is_no_answer(world: World) -> None:
    """An API that takes a request and says nothing is asked again."""
    own, _ = world.broker()
    hang = asyncio.Event()

    async def get(*_: Any) -> Any:
        await hang.wait()

    world.api.get = get  # type: ignore[method-assign]
    old, module._ANSWER = module._ANSWER, 0.05
    try:
        taking = world.start(own.take())
        await eventually(lambda: own._pause._waiting, "it pauses before it asks again")  # type: ignore[attr-defined]
        assert not taking.done()
    finally:
        module._ANSWER = old
