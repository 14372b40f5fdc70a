"""Whatever becomes of a write: no kernel is on a GPU without its share, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Any

import pytest
from unanswered import OUTCOMES, Store
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine, _writes
from jupyter_gpu_share.engines.kubernetes._annotation import Annotation
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.engines.kubernetes._lease_plan import LeaseChange
from jupyter_gpu_share.engines.kubernetes._objects import Owner
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.api import CLAIMS, PODS, KubernetesError, Unreachable
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend, KaiBackend, kai_pods
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

pytestmark = pytest.mark.timeout(PATIENCE)

GIVEN_BACK = "gpu-share.jupyter.org/given-back"
TOTAL = 81900


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not done is tried again at once; nobody is held up for seconds."""
    monkeypatch.setattr(_writes, "_PAUSE", 0.01)


@pytest.fixture
def store() -> Store:
    return Store()


class Until:
    """Waits as a kernel does: looking at every change."""

    def __init__(self, store: Store) -> None:
        self._news = asyncio.Event()
        store.changed = self._news.set
        self.writes = Writes(self._news.set)

    async def __call__(self, look: Callable[[], Any]) -> Any:
        while (found := look()) is None:
            self._news.clear()
            await self._news.wait()
        return found


def nothing_told(news: object) -> None:
    """Nobody listens."""


OWNER = Owner("alice", "mine")

# -- style lease -----------------------------------------------------------------------------------


class Dra(DraBackend):
    """One GPU that has room for everybody."""

    def knows(self, device: Any, facts: Any) -> bool:
        return True

    def lease_spec(self, amount: int, device: Any, facts: Any, size: Any = None) -> Any:
        return {}

    def held_on(self, claim: Any, device: Any, facts: Any) -> int:
        return 2**30

    def amount_on(self, size: Any, device: Any, facts: Any) -> int:
        return 2**30

    def device_of(self, claim: Any) -> tuple[str, str] | None:
        return ("node", "gpu-0") if claim["status"] else None


def new_lease(store: Store) -> tuple[Lease, Until]:
    settings = KubernetesEngine(lease_image="pause", image_pull_policy="Never")
    until = Until(store)
    labels = Labels("alice", "k-1", "attempt")
    cluster = store.cluster(Dra(), settings=settings)
    lease = Lease(
        cluster, OWNER, Size.parse("1/4"), until.writes, labels, {"name": "k", "uid": "u"}
    )
    lease.device = ("node", "gpu-0")
    return lease, until


async def leased(store: Store) -> tuple[Lease, Until]:
    """A kernel that holds a lease."""
    lease, until = new_lease(store)
    await lease.retake(nothing_told, until)
    assert not lease.lent
    assert held(store) == lease.claim_names
    return lease, until


def held(store: Store) -> set[str]:
    """Leases that take something of the GPU."""
    return {name for name, claim in store.of(CLAIMS).items() if claim["status"]}


def nothing_left(store: Store) -> None:
    assert not store.of(CLAIMS)
    assert not store.of(PODS)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("number", range(2))
async def test_a_lease_is_held_or_on_its_way_back(store: Store, number: int, outcome: str) -> None:
    lease, until = await leased(store)
    store.count((number, outcome))
    if (outcome, number) == ("refused", 0):
        with pytest.raises(KubernetesError):
            await lease.drop()
        assert not lease.lent
        assert held(store) == lease.claim_names
        assert lease.taken_away() is None
        return
    await lease.drop()
    assert lease.lent
    await until.writes.settled()
    nothing_left(store)
    await lease.retake(nothing_told, until)
    assert held(store) == lease.claim_names != set()


async def test_a_lease_that_was_refused_and_cannot_be_read_back_is_not_held(store: Store) -> None:
    lease, until = await leased(store)
    store.count((0, "refused"))

    async def unread(*where: Any) -> Any:
        raise Unreachable("The Kubernetes API cannot be reached.")

    store.get, read = unread, store.get  # type: ignore[method-assign]
    await lease.drop()
    assert lease.lent
    store.get = read  # type: ignore[method-assign]
    await until.writes.settled()
    nothing_left(store)


async def test_one_of_two_leases_that_may_be_gone_is_not_turned_back(store: Store) -> None:
    lease, until = await leased(store)
    await lease.extend(LeaseChange(frozenset(lease.claim_names), 2**30), until)
    assert len(held(store)) == 2
    store.count((0, "refused"), (1, "never"))
    await lease.drop()
    await until.writes.settled()
    nothing_left(store)


async def test_a_wake_waits_for_the_truth_of_the_release(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writes, "PATIENCE", 0.05)
    lease, until = await leased(store)
    store.away = True
    store.count()
    await lease.drop()
    assert lease.lent
    assert until.writes.pending
    told: list[Any] = []
    waking = asyncio.ensure_future(lease.retake(told.append, until))
    await eventually(lambda: told, "it is told what it waits for")
    assert isinstance(told[0], Waiting)
    assert "has not answered yet" in told[0].reason
    assert not any(what.startswith("create") for what in store.writes)
    before = held(store)
    store.away = False
    await waking
    assert held(store) == lease.claim_names
    assert not held(store) & before


async def test_who_takes_a_kernel_over_reads_its_share_back(store: Store) -> None:
    lease, _ = await leased(store)
    other, until = new_lease(store)
    await other.adopt("k")
    assert other.claim_names == lease.claim_names
    del store.objects["pods", lease.name]
    assert other.taken_away() is not None
    # As it is when the server before has ended while it gave the share back.
    late, until = new_lease(store)
    assert held(store)
    await late.adopt("k")
    assert late.lent
    await until.writes.settled()
    nothing_left(store)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("number", range(2))
async def test_a_wake_that_fails_holds_nothing(store: Store, number: int, outcome: str) -> None:
    lease, until = await leased(store)
    await lease.drop()
    store.count((number, outcome))
    with pytest.raises(KubernetesError):
        await lease.retake(nothing_told, until)
    await lease.withdraw()
    assert lease.lent
    await until.writes.settled()
    nothing_left(store)


@pytest.mark.parametrize("steps", range(6))
async def test_a_wake_that_is_given_up_at_any_moment_leaves_nothing(
    store: Store, steps: int
) -> None:
    lease, until = await leased(store)
    await lease.drop()
    waking = asyncio.ensure_future(lease.retake(nothing_told, until))
    for _ in range(steps):
        await asyncio.sleep(0)
    waking.cancel()
    await asyncio.gather(waking, return_exceptions=True)
    await lease.withdraw()
    await until.writes.settled()
    nothing_left(store)


async def test_a_lease_that_comes_to_be_after_it_was_given_up_is_let_go(store: Store) -> None:
    lease, until = await leased(store)
    kept = lease.claim_names
    late = f"{lease.name[:-8]}00000000"
    await store.create(CLAIMS, {"metadata": {"name": late}}, "team")
    for name in (late, lease.name, "gpu-share-another-lease-00000000"):
        lease.appeared(name)
    await until.writes.settled()
    assert set(store.of(CLAIMS)) == kept


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("number", range(2))
async def test_a_lease_more_is_held_or_gone(store: Store, number: int, outcome: str) -> None:
    lease, until = await leased(store)
    before = lease.claim_names
    store.count((number, outcome))
    with pytest.raises(KubernetesError):
        await lease.extend(LeaseChange(frozenset(before), 2**30), until)
    assert lease.claim_names == before
    await until.writes.settled()
    assert held(store) == set(store.of(CLAIMS)) == before


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("number", range(5))
async def test_what_is_held_and_noted_is_what_is_believed_after_a_change(
    store: Store, number: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lease takes the place of another: two are created, the size is noted, two deleted."""
    lease, until = await leased(store)
    before = lease.claim_names
    meta = {"name": "k", "annotations": {"gpu-share.jupyter.org/size": "1/4"}}
    await store.create(PODS, {"metadata": meta}, "team")

    async def planned(share: Any, size: Size) -> Any:
        return share, LeaseChange(frozenset(), 2**30)

    async def note() -> None:
        words = {"metadata": {"annotations": {"gpu-share.jupyter.org/size": "1/8"}}}

        async def write() -> None:
            await store.patch(PODS, "k", words, "team")

        await until.writes.insist(write, refusable=True)

    monkeypatch.setattr(lease, "planned", planned)
    store.count((number, outcome))
    share: Any = object()
    believed = "1/8"
    try:
        await lease.change(share, Size.parse("1/8"), note, until)
    except EngineError:
        believed = "1/4"
    await until.writes.settled()
    assert store.note("k", "size") == believed
    assert (lease.claim_names == before) is (believed == "1/4")
    assert held(store) == lease.claim_names == set(store.of(CLAIMS))
    assert set(store.of(PODS)) == {"k", *lease.claim_names}
    assert len(store.writes) > number


# -- style annotation ------------------------------------------------------------------------------


class Kai(KaiBackend):
    """One GPU that nobody else is on."""

    settle = 0.0

    def total(self, pod: Any, facts: Any) -> int:
        return TOTAL

    def amount_on(self, size: Size, total: int) -> Any:
        return size.fraction * total if size.fraction else None


async def annotated(store: Store) -> tuple[Annotation, Until]:
    """A kernel whose pod counts for 1/2."""
    until = Until(store)
    notes = {"gpu-fraction": "0.5", "gpu-share.jupyter.org/size": "1/2"}
    meta = {"name": "k", "labels": {"runai-gpu-group": "g"}, "annotations": notes}
    await store.create(PODS, {"metadata": meta, "spec": {"nodeName": "n"}}, "team")
    store.count()
    return Annotation(store.cluster(Kai()), "k", until.writes), until


def counts(store: Store) -> Fraction:
    """MiB that the pod counts for."""
    found = kai_pods.amount_of(store.of(PODS)["k"], TOTAL)
    assert found is not None
    return found


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_an_annotated_share_is_held_or_on_its_way_back(store: Store, outcome: str) -> None:
    one, until = await annotated(store)
    store.count((0, outcome))
    if outcome == "refused":
        with pytest.raises(KubernetesError):
            await one.drop()
        assert not one.lent
        assert counts(store) == TOTAL // 2
        return
    await one.drop()
    assert one.lent
    await until.writes.settled()
    assert counts(store) <= 2
    await one.retake(nothing_told, until)
    assert not one.lent
    assert counts(store) == TOTAL // 2


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("number", range(2))
async def test_an_annotated_share_that_cannot_be_taken_again_is_given_back(
    store: Store, number: int, outcome: str
) -> None:
    one, until = await annotated(store)
    await one.drop()
    store.count((number, outcome))
    with pytest.raises(KubernetesError):
        await one.retake(nothing_told, until)
    assert one.lent
    await until.writes.settled()
    assert counts(store) <= 2
    assert GIVEN_BACK in store.of(PODS)["k"]["metadata"]["annotations"]


def change(one: Annotation, held: str, size: str) -> Awaitable[None]:
    words = {"gpu-share.jupyter.org/size": size}
    return one.change(Size.parse(held), Size.parse(size), words)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(("size", "writes"), [("1/4", 1), ("3/4", 2)])
async def test_what_is_counted_is_what_is_believed_after_a_change(
    store: Store, size: str, writes: int, outcome: str
) -> None:
    for number in range(writes):
        one, until = await annotated(store)
        store.count((number, outcome))
        believed = size
        try:
            await change(one, "1/2", size)
        except EngineError:
            believed = "1/2"
        await until.writes.settled()
        assert store.note("k", "size") == believed
        assert abs(counts(store) - Fraction(believed) * TOTAL) <= 1
        assert store.note("k", "amounts-before") is None
        if size == "1/4" and outcome != "refused":
            assert believed == "1/4", "less is never turned back"
        store.objects.clear()


# -- writes ----------------------------------------------------------------------------------------


async def test_what_is_refused_is_told_to_who_listens_and_asked_again_for_who_has_left() -> None:
    writes, let = Writes(), asyncio.Event()
    done: list[str] = []

    async def refused_once() -> None:
        await let.wait()
        done.append("refused" if not done else "done")
        if done == ["refused"]:
            raise EngineError("No.")

    let.set()
    with pytest.raises(EngineError):
        await writes.insist(refused_once, refusable=True)
    assert not writes.pending
    done.clear()
    let.clear()
    assert not await writes.insist(refused_once, patience=0.01, refusable=True)
    let.set()
    assert await writes.settled(PATIENCE)
    assert done == ["refused", "done"]


async def test_a_write_begins_when_the_one_before_it_has_ended_though_its_caller_left() -> None:
    writes, let = Writes(), asyncio.Event()
    order: list[str] = []

    async def first() -> None:
        await let.wait()
        order.append("first")

    async def second() -> None:
        order.append("second")

    caller = asyncio.ensure_future(writes.once(first))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert not await writes.insist(second, patience=0.01)
    assert order == []
    let.set()
    assert await writes.settled(PATIENCE)
    assert order == ["first", "second"]


async def test_what_goes_as_a_whole_is_not_asked_again() -> None:
    writes = Writes()
    tries: list[int] = []

    async def never() -> None:
        tries.append(1)
        raise Unreachable("The Kubernetes API cannot be reached.")

    assert not await writes.insist(never, patience=0.05)
    writes.give_up()
    assert await writes.settled(PATIENCE)

    async def gone() -> None:
        tries.clear()

    assert await writes.insist(gone)
    assert tries == []
