"""Whose idle shares go when somebody waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.engines.local._contents import LedgerSnapshot
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._placement import Piece, Queue, Wish, place
from jupyter_gpu_share.kernels.reclaim import chosen, whose_turn
from jupyter_gpu_share.size import Size

GIB = 2**30


def machine(
    count: int, held: Sequence[tuple[str, str]], waiting: Sequence[str | Wish]
) -> LedgerSnapshot:
    """GPUs of 80 GiB; who holds which size, placed one after the other; and who waits."""
    gpus = [Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(count)]
    used: dict[str, int] = {}
    pieces: dict[str, tuple[Piece, ...]] = {}
    for kernel, text in held:
        found = place(Size.parse(text), gpus, used)
        if found is None:
            continue
        pieces[kernel] = found
        for piece in found:
            used[piece.uuid] = used.get(piece.uuid, 0) + piece.memory_bytes
    wishes = [
        Wish(str(n), Size.parse(wish)) if isinstance(wish, str) else replace(wish, name=str(n))
        for n, wish in enumerate(waiting)
    ]
    return LedgerSnapshot(
        waiting=tuple(Waiter(f"w{wish.name}", wish.size) for wish in wishes),
        queue=Queue(gpus, wishes),
        used=used,
        held=pieces,
    )


@dataclass
class Counting:
    """Counts how often a snapshot is asked."""

    inner: LedgerSnapshot
    asked: list[frozenset[str]] = field(default_factory=list)

    @property
    def waiting(self) -> Sequence[Waiter]:
        return self.inner.waiting

    def served(self, freed: Collection[str]) -> frozenset[int]:
        self.asked.append(frozenset(freed))
        return self.inner.served(freed)


HALVES = [("a", "1/2"), ("b", "1/2")]


def test_two_idle_halves_go_for_one_that_waits_for_a_whole() -> None:
    assert chosen(machine(1, HALVES, ["1"]), ["b", "a"]) == {"a", "b"}


def test_each_goes_for_those_who_get_nothing_without_it() -> None:
    whole = machine(1, HALVES, ["1"])
    assert whose_turn(whole, ["a", "b"]) == {"a": {"w0"}, "b": {"w0"}}
    held = [*HALVES, ("c", "1/2"), ("d", "1/2")]
    assert whose_turn(machine(2, held, ["1/2", "1/2"]), ["a"]) == {"a": {"w0"}}
    assert whose_turn(machine(1, HALVES, ["1"]), ["a"]) == {"a": frozenset()}
    assert whose_turn(machine(1, HALVES, ["1"]), []) == {}


def test_none_goes_where_even_all_are_not_enough() -> None:
    held = [*HALVES, ("busy", "1/2"), ("c", "1/2")]
    assert chosen(machine(2, held, ["2x1"]), ["a", "b", "c"]) == frozenset()
    assert chosen(machine(2, held, ["1"]), ["a", "c"]) == frozenset()


def test_the_least_recently_used_goes() -> None:
    held = [("a", "1/4"), ("b", "1/4"), ("c", "1/4"), ("d", "1/4")]
    snapshot = machine(1, held, ["1/4"])
    for order in ("abcd", "dcba", "cbad"):
        assert chosen(snapshot, list(order)) == {order[0]}


def test_what_is_of_no_use_to_who_waits_is_spared() -> None:
    held = [("a", "1/2"), ("busy", "1/2"), ("c", "1/2"), ("d", "1/2")]
    assert chosen(machine(2, held, ["1"]), ["a", "c", "d"]) == {"c", "d"}


def test_nobody_goes_for_those_who_have_room() -> None:
    assert chosen(machine(1, HALVES[:1], ["1/4", "1/4"]), ["a"]) == frozenset()


def test_nobody_goes_where_nobody_waits_or_nobody_is_idle() -> None:
    assert chosen(machine(1, HALVES, []), ["a", "b"]) == frozenset()
    assert chosen(machine(1, HALVES, ["1/2"]), []) == frozenset()
    assert chosen(machine(1, HALVES, ["1/2"]), ["of another machine"]) == frozenset()


def test_those_who_wait_are_served_in_their_order() -> None:
    snapshot = machine(2, [*HALVES, ("c", "1/2"), ("busy", "1/2")], ["1", "1/2", "1/2"])
    # The first takes one GPU, the second the half of the other, and nothing is left for the third.
    assert chosen(snapshot, ["c", "a", "b"]) == {"a", "b", "c"}
    assert snapshot.served({"a", "b", "c"}) == {0, 1}


def test_who_cannot_be_served_holds_up_nobody_behind_it() -> None:
    bound = Wish("", Size.parse("1"), frozenset({"G0"}))
    held = [("a", "1/2"), ("busy", "1/2"), ("c", "1/2"), ("d", "1/2")]
    assert chosen(machine(2, held, [bound, "1/2"]), ["a", "d", "c"]) == {"d"}
    # Where it has all GPUs reserved nothing would come of it.
    assert chosen(machine(2, held, ["2x1", "1/2"]), ["a", "c", "d"]) == frozenset()


def test_what_went_for_one_and_is_needless_since_is_spared() -> None:
    # The quarter is used the longest ago; the half that the second needs is enough for both.
    held = [("half", "1/2"), ("busy", "1/2"), ("old", "1/4"), ("busy too", "3/4")]
    snapshot = machine(2, held, ["1/4", "1/4"])
    assert chosen(snapshot, ["old", "half"]) == {"half"}
    assert chosen(machine(2, held, ["1/4"]), ["old", "half"]) == {"old"}


def test_only_those_on_its_own_gpu_go_for_who_needs_that_one() -> None:
    bound = Wish("", Size.parse("1/2"), frozenset({"G1"}))
    held = [*HALVES, ("c", "1/2"), ("d", "1/2")]
    assert chosen(machine(2, held, [bound]), ["a", "b", "d", "c"]) == {"d"}


@dataclass
class Rules:
    """A snapshot by rules: for each that waits, whether some freed shares serve it."""

    rules: Sequence[Callable[[Collection[str]], bool]]

    @property
    def waiting(self) -> Sequence[Waiter]:
        return [Waiter(None, Size.parse("1")) for _ in self.rules]

    def served(self, freed: Collection[str]) -> frozenset[int]:
        return frozenset(n for n, rule in enumerate(self.rules) if rule(freed))


def test_who_is_behind_takes_nothing_from_those_before() -> None:
    rules = Rules(
        [
            lambda freed: "x" in freed and ("y" not in freed or "z" in freed),
            lambda freed: "y" in freed or "z" in freed,
        ]
    )
    assert chosen(rules, ["x", "y", "z"]) == {"x", "z"}


def test_of_those_that_can_be_spared_the_most_recently_used_is() -> None:
    rules = Rules(
        [
            lambda freed: len(freed) >= 1,
            lambda freed: len(freed) >= 2,
            lambda freed: len(freed) >= 2 and "c" in freed,
        ]
    )
    assert chosen(rules, ["a", "b", "c"]) == {"a", "c"}


sizes = st.sampled_from(["1/8", "1/4", "1/3", "1/2", "3/4", "1", "2x1/2", "2x1", "10GiB"])
#: Machines as a ledger leaves them: who could have a share has it.
machines = st.builds(
    lambda count, held, waiting: machine(
        count, [(f"k{n}", text) for n, text in enumerate(held)], waiting
    ),
    st.integers(1, 4),
    st.lists(sizes, max_size=16),
    st.lists(sizes, max_size=12),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[LedgerSnapshot, list[str]]:
    snapshot = draw(machines)
    idle = draw(st.lists(st.sampled_from([f"k{n}" for n in range(16)]), unique=True))
    return snapshot, idle


@given(situations())
def test_without_any_one_of_them_somebody_is_not_served(
    situation: tuple[LedgerSnapshot, list[str]],
) -> None:
    snapshot, idle = situation
    found = chosen(snapshot, idle)
    assert found <= set(idle)
    served = snapshot.served(found)
    for kernel in found:
        assert not served <= snapshot.served(found - {kernel}), kernel
    # Nobody loses the room that it has as things are, but to somebody before it.
    assert min(snapshot.served(()) ^ served, default=None) in {None, *served}


@given(situations())
def test_the_first_is_served_where_that_is_possible_and_by_the_least_recently_used(
    situation: tuple[LedgerSnapshot, list[str]],
) -> None:
    snapshot, idle = situation
    first = replace(snapshot, waiting=snapshot.waiting[:1], queue=_first(snapshot.queue))
    if not first.waiting:
        return
    found = chosen(first, idle)
    if 0 in first.served(()):
        assert found == frozenset()
        return
    assert (0 in first.served(idle)) == bool(found)
    # For one that waits no kernel is used longer ago than needed: without the most recently used
    # of those that go, all others that are used longer ago would not do.
    if found:
        last = max(idle.index(kernel) for kernel in found)
        assert 0 not in first.served(idle[:last])
        assert 0 in first.served(found)
        assert found <= chosen(snapshot, idle) or len(snapshot.waiting) > 1


def _first(queue: Queue) -> Queue:
    own = Queue((), ())
    own._gpus, own._queue = queue._gpus, queue._queue[:1]
    return own


@given(situations(), st.sampled_from([f"k{n}" for n in range(16)]))
def test_one_more_idle_share_never_serves_the_first_less(
    situation: tuple[LedgerSnapshot, list[str]], more: str
) -> None:
    snapshot, idle = situation
    with_less = snapshot.served(chosen(snapshot, idle))
    with_more = snapshot.served(chosen(snapshot, [*idle, more]))
    if 0 in with_less:
        assert 0 in with_more


@pytest.mark.parametrize("size", ["1/4", "1/2", "1", "5x1"])
def test_a_hundred_waiters_and_twenty_idle_shares_take_no_time(size: str) -> None:
    held = [(f"k{n}", "1/4") for n in range(20)]
    counting = Counting(machine(5, held, [size] * 100))
    idle = [f"k{n}" for n in range(20)]
    begun = time.thread_time()
    found = chosen(counting, idle)
    took = time.thread_time() - begun
    assert len(found) == 20
    assert len(counting.asked) < 200
    assert took < 5.0, "a guard against a hang; the bound is the number of questions"


def test_who_cannot_be_served_costs_nothing() -> None:
    held = [(f"k{n}", "1/4") for n in range(20)]
    counting = Counting(machine(5, held, ["6x1"] * 100))
    assert chosen(counting, [f"k{n}" for n in range(20)]) == frozenset()
    assert len(counting.asked) == 2
