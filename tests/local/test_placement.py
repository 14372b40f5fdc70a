"""Where shares are put, and who gets room first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._placement import (
    Piece,
    Queue,
    Wish,
    never_fits,
    place,
    why_waiting,
)
from jupyter_gpu_share.size import Size

GIB = 2**30


def gpus(*amounts: int) -> list[Gpu]:
    return [Gpu(f"G{n}", "A100", n, amount * GIB) for n, amount in enumerate(amounts)]


def grants(
    on: Sequence[Gpu],
    used: Mapping[str, int],
    waiting: Iterable[Wish],
    others: Mapping[str, int] | None = None,
) -> Mapping[str, tuple[Piece, ...]]:
    """What those that wait get, by their names."""
    return Queue(on, waiting, others).serve(used).granted


def mig(number: int = 7) -> list[Gpu]:
    return [
        Gpu(f"M{n}", "A100", 0, 10 * GIB, profile="1g.10gb", parent="G0") for n in range(number)
    ]


def uuids(text: str, on: list[Gpu], **used: int) -> list[str] | None:
    pieces = place(Size.parse(text), on, {name: n * GIB for name, n in used.items()})
    return None if pieces is None else [piece.uuid for piece in pieces]


def test_small_shares_pack_and_whole_gpus_stay_whole() -> None:
    assert uuids("1/4", gpus(80, 80), G1=20) == ["G1"]
    assert uuids("1/4", gpus(80, 80), G0=20, G1=60) == ["G1"]
    assert uuids("1", gpus(80, 80), G0=20) == ["G1"]
    assert uuids("1", gpus(80), G0=1) is None


def test_a_gpu_that_is_shared_comes_before_a_smaller_one_that_is_empty() -> None:
    assert uuids("10GiB", gpus(80, 24), G0=40) == ["G0"]
    assert uuids("2x10GiB", gpus(80, 24, 80), G0=40, G2=40) == ["G0", "G2"]


def test_the_smallest_gpu_that_is_enough_is_taken() -> None:
    assert uuids("10GiB", gpus(80, 24)) == ["G1"]
    assert uuids("30GiB", gpus(80, 24)) == ["G0"]


def test_several_devices_are_different_gpus() -> None:
    assert uuids("2x1/2", gpus(80, 80)) == ["G0", "G1"]
    assert uuids("2x1/2", gpus(80)) is None
    assert uuids("2x1/2", gpus(80, 80), G0=60) is None


def test_of_unequal_gpus_the_same_memory_is_held() -> None:
    """Programs are told one amount for all of their GPUs."""
    pieces = place(Size.parse("2x1/2"), gpus(24, 80), {})
    assert pieces is not None
    assert {piece.memory_bytes for piece in pieces} == {12 * GIB}


def test_several_mig_instances_are_of_no_use_to_one_program() -> None:
    for text in ("2xmig-1g.10gb", "2x10GiB"):
        assert uuids(text, mig()) is None
        assert "one MIG instance only" in (never_fits(Size.parse(text), mig()) or "")
    assert uuids("10GiB", mig()) is not None


def test_mig_instances_go_whole_to_their_profile() -> None:
    on = [*mig(), Gpu("G1", "A100", 1, 80 * GIB)]
    assert uuids("mig-1g.10gb", on) == ["M0"]
    assert uuids("mig-1g.10gb", on, M0=10) == ["M1"]
    assert uuids("5GiB", on) == ["G1"]
    assert uuids("5GiB", mig(), M0=10) == ["M1"]
    assert uuids("1/2", mig()) is None


def test_what_can_never_be_had() -> None:
    assert never_fits(Size.parse("1/2"), gpus(80)) is None
    assert never_fits(Size.parse("0"), []) is None
    huge = never_fits(Size.parse("1" + "0" * 30 + "B"), gpus(80, 24))
    assert huge is not None
    assert "the largest GPU here (80 GiB)" in huge
    assert "this machine has 2 such GPUs" in str(never_fits(Size.parse("3x1/2"), gpus(80, 80)))
    profile = never_fits(Size.parse("mig-3g.40gb"), mig())
    assert profile == "No GPU here has a MIG profile 3g.40gb; there are 1g.10gb."
    assert "none is in MIG mode" in str(never_fits(Size.parse("mig-1g.10gb"), gpus(80)))
    least = never_fits(Size.parse("0.0000000000001"), gpus(80))
    assert least is not None
    assert "less than one byte of a GPU here (80 GiB)" in least
    assert uuids("0.0000000000001", gpus(80)) is None
    assert "split into MIG" in str(never_fits(Size.parse("1/2"), mig()))


def test_the_reason_names_what_is_missing() -> None:
    reason = why_waiting(Size.parse("3/4"), gpus(80, 80), {"G0": 60 * GIB, "G1": 40 * GIB}, 0)
    assert reason == "It needs 60 GiB of one GPU; the emptiest has 40 GiB of 80 GiB free."
    reason = why_waiting(Size.parse("1/4"), gpus(80), {}, 1)
    assert "came earlier" in reason


def queue(*texts: str) -> list[Wish]:
    return [Wish(f"{n}:{text}", Size.parse(text)) for n, text in enumerate(texts)]


def test_who_needs_one_gpu_waits_for_that_one_and_for_no_other() -> None:
    used = {"G0": 70 * GIB}
    bound = Wish("bound", Size.parse("1/4"), frozenset({"G0"}))
    assert list(grants(gpus(80, 80), used, [bound])) == []
    granted = grants(gpus(80, 80), used, [bound, *queue("10GiB", "1/4")])
    # Where it waits nobody overtakes it, and all else is open.
    assert {name: pieces[0].uuid for name, pieces in granted.items()} == {
        "0:10GiB": "G1",
        "1:1/4": "G1",
    }
    assert grants(gpus(80, 80), {}, [bound])["bound"][0].uuid == "G0"


def test_a_large_request_is_not_overtaken_where_it_waits() -> None:
    used = {"G0": 40 * GIB}
    assert list(grants(gpus(80), used, queue("1", "1/4", "1/4"))) == []
    assert list(grants(gpus(80, 80), {"G0": 40 * GIB, "G1": 60 * GIB}, queue("1", "1/4"))) == [
        "1:1/4"
    ]


def test_one_that_lets_others_pass_holds_no_gpu() -> None:
    used = {"G0": 40 * GIB}
    large = Wish("large", Size.parse("1"), holds=False)
    small = [Wish(name, Size.parse("1/4")) for name in ("a", "b", "c")]
    assert list(grants(gpus(80), used, [large, *small])) == ["a", "b"]
    assert list(grants(gpus(80), {}, [large, *small])) == ["large"]


def test_unrelated_gpus_are_not_idle_behind_it() -> None:
    on = [Gpu("G1", "A100", 1, 80 * GIB), *mig()]
    assert list(grants(on, {"G1": GIB}, queue("1", "mig-1g.10gb"))) == ["1:mig-1g.10gb"]


@pytest.mark.parametrize("gone", ["lost", "used by others"])
def test_who_cannot_be_served_keeps_nobody_waiting(gone: str) -> None:
    """Even if all shares were given back."""
    used = {"G0": 40 * GIB}
    if gone == "lost":
        assert list(grants(gpus(80), used, queue("2x1/2", "1/4"))) == ["1:1/4"]
    else:
        others = {"G0": 10 * GIB}
        assert list(grants(gpus(80), used, queue("1", "1/4"), others)) == ["1:1/4"]
        assert list(grants(gpus(80), used, queue("7/8", "1/4"), others)) == []


def test_a_gpu_and_its_instances_are_the_same_memory() -> None:
    """Servers see that a GPU was split at different moments."""
    on = [*gpus(80), *mig()]
    assert [*grants(on, {}, queue("1/4", "mig-1g.10gb"))] == ["0:1/4"]
    granted = grants(on, {}, queue("mig-1g.10gb", "mig-1g.10gb", "1", "3/4"))
    assert [*granted] == ["0:mig-1g.10gb", "1:mig-1g.10gb"]
    alone = grants(on, {}, queue("mig-1g.10gb", "3/4"))
    assert [piece.uuid for pieces in alone.values() for piece in pieces] == ["M0", "G0"]


amounts = st.integers(1, 100)
requests = st.lists(
    st.builds(lambda n, d: Size(fraction=Fraction(min(n, d), max(n, d))), amounts, amounts)
    | st.builds(lambda n: Size(memory=n * GIB), amounts)
    | st.builds(lambda d: Size(fraction=Fraction(1, d), count=2), amounts),
    max_size=20,
)
machines = st.lists(st.integers(1, 100), min_size=1, max_size=6)


@given(machines, requests, st.data())
def test_grants_never_exceed_a_gpu_and_serve_the_first_that_fits(
    sizes: list[int], wanted: list[Size], data: st.DataObject
) -> None:
    on = gpus(*sizes)
    used = {gpu.uuid: data.draw(st.integers(0, gpu.memory_bytes)) for gpu in on}
    waiting = [Wish(str(n), size) for n, size in enumerate(wanted)]
    granted = grants(on, used, waiting)
    total = dict(used)
    for pieces in granted.values():
        assert len({piece.uuid for piece in pieces}) == len(pieces)
        for piece in pieces:
            total[piece.uuid] += piece.memory_bytes
    assert all(total[gpu.uuid] <= gpu.memory_bytes for gpu in on)
    if waiting and place(waiting[0].size, on, used) is not None:
        assert "0" in granted


@given(machines, requests, st.data())
def test_an_empty_gpu_stays_whole_while_a_shared_one_has_room(
    sizes: list[int], wanted: list[Size], data: st.DataObject
) -> None:
    on = gpus(*sizes)
    used = {gpu.uuid: data.draw(st.integers(0, gpu.memory_bytes)) for gpu in on}
    for size in wanted:
        pieces = place(size, on, used) or ()
        on_empty = sum(1 for piece in pieces if not used[piece.uuid])
        with_room = [
            gpu
            for gpu in on
            if used[gpu.uuid]
            and size.bytes_of(gpu.memory_bytes) <= gpu.memory_bytes - used[gpu.uuid]
        ]
        assert on_empty <= max(0, size.count - len(with_room))


def missing(size: Size, on: list[Gpu], used: dict[str, int]) -> list[int]:
    """Bytes that have to be freed for ``size`` on the GPUs where that is least."""
    lacks = [
        max(0, size.bytes_of(gpu.memory_bytes) + used[gpu.uuid] - gpu.memory_bytes)
        for gpu in on
        if size.bytes_of(gpu.memory_bytes) <= gpu.memory_bytes
    ]
    return sorted(lacks)[: size.count]


@given(machines, requests, st.data())
def test_the_first_in_the_queue_is_never_put_back(
    sizes: list[int], wanted: list[Size], data: st.DataObject
) -> None:
    """Whoever else comes and goes, what it needs to be freed only ever becomes less."""
    on = gpus(*sizes)
    waiting = [Wish(str(n), s) for n, s in enumerate(wanted) if never_fits(s, on) is None]
    held = {f"old {gpu.uuid}": ((gpu.uuid, gpu.memory_bytes),) for gpu in on}
    for _ in range(len(held) + 2 * len(waiting)):
        if not held or not waiting:
            break
        del held[data.draw(st.sampled_from(sorted(held)))]
        used = dict.fromkeys((gpu.uuid for gpu in on), 0)
        for pieces in held.values():
            for uuid, amount in pieces:
                used[uuid] += amount
        granted = grants(on, used, waiting)
        if place(waiting[0].size, on, used) is not None:
            assert waiting[0].name in granted
        else:
            after = dict(used)
            for rows in granted.values():
                for piece in rows:
                    after[piece.uuid] += piece.memory_bytes
            assert missing(waiting[0].size, on, after) == missing(waiting[0].size, on, used)
        for name, rows in granted.items():
            held[name] = tuple((piece.uuid, piece.memory_bytes) for piece in rows)
        waiting = [row for row in waiting if row.name not in granted]


@given(machines, requests)
def test_nobody_starves(sizes: list[int], wanted: list[Size]) -> None:
    """With everything given back in turn, every request that can be had is served in the end."""
    on = gpus(*sizes)
    waiting = [Wish(str(n), s) for n, s in enumerate(wanted) if never_fits(s, on) is None]
    served: list[str] = []
    for _ in range(len(waiting) + 1):
        granted = grants(on, {}, waiting)
        served += granted
        if waiting:
            assert waiting[0].name in granted, "the first in the queue gets an empty machine"
        waiting = [row for row in waiting if row.name not in granted]
    assert not waiting
