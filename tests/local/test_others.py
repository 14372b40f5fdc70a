"""Memory of GPUs that is used without a share, and that is not given out again."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._contents import Claim
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._others import used_by_others
from jupyter_gpu_share.engines.local._placement import Piece, place
from jupyter_gpu_share.engines.local._usage import Reading
from jupyter_gpu_share.size import Size

GIB = 2**30
GPU = Gpu("G0", "A100", 0, 80 * GIB)


def claim(name: str, gib: int) -> Claim:
    pieces = (Piece("G0", gib * GIB),)
    return Claim(name, name, Size(memory=gib * GIB), this_process(), here(), pieces)


def seen(gib: int) -> Reading:
    return Reading(gib * GIB, None, {"G0": gib * GIB})


def others(in_use: int, claims: list[Claim], **readings: Reading) -> dict[str, int]:
    return used_by_others([GPU], {"G0": in_use * GIB}, claims, readings)


def test_what_nobody_holds_is_others() -> None:
    assert others(30, []) == {"G0": 30 * GIB}
    assert others(30, [claim("a", 20)], a=seen(12)) == {"G0": 18 * GIB}


def test_what_is_not_known_of_a_kernel_may_be_all_that_it_holds() -> None:
    assert others(30, [claim("a", 20)]) == {"G0": 10 * GIB}
    assert others(30, [claim("a", 40)]) == {}


def test_what_a_kernel_uses_beyond_its_share_is_not_given_out() -> None:
    assert others(30, [claim("a", 20)], a=seen(30)) == {"G0": 10 * GIB}


def test_the_screen_of_a_workstation_keeps_nobody_waiting() -> None:
    assert others(5, []) == {}
    assert others(6, []) == {"G0": 6 * GIB}


amounts = st.integers(0, 40)


@given(st.lists(st.tuples(amounts, amounts, st.booleans()), max_size=4), amounts, amounts)
def test_granted_and_used_by_others_never_exceed_a_gpu(
    kernels: list[tuple[int, int, bool]], foreign: int, wanted: int
) -> None:
    """Whatever kernels use of what they hold, and whether it is known."""
    claims, readings, in_use, held = [], {}, foreign, 0
    for number, (share, used, known) in enumerate(kernels):
        share = min(share, 80 - held)
        used = used if known else min(used, share)
        held, in_use = held + share, in_use + used
        claims.append(claim(str(number), share))
        if known:
            readings[str(number)] = seen(used)
    taken = held * GIB + others(in_use, claims, **readings).get("G0", 0)
    pieces = place(Size(memory=max(1, wanted) * GIB), [GPU], {"G0": taken})
    if pieces is not None and all(known for _, _, known in kernels):
        assert held + max(1, wanted) + foreign <= 80 + 80 // 16


ALL = [Gpu(f"G{n}", "A100", n, gib * GIB) for n, gib in enumerate((24, 40, 80))]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("see"), st.integers(0, 1), st.sets(st.integers(0, 2), min_size=1)),
        st.tuples(st.just("others"), st.integers(0, 2), st.integers(0, 80)),
        st.tuples(st.just("ask"), st.integers(0, 1), st.sampled_from(["1/2", "10GiB", "2x1/4"])),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("die"), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_ledger_never_gives_out_what_others_use(
    tmp_path_factory: Any, schedule: list[tuple[str, int, Any]]
) -> None:
    """Two servers that see different GPUs of different sizes, one of which may end at any time."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledgers = [Ledger(path), Ledger(path)]
    for ledger in ledgers:
        ledger.set_gpus(ALL)
    used: dict[str, int] = {}
    asked: list[str] = []
    try:
        for what, number, value in schedule:
            before = ledgers[0].used()
            if what == "see":
                ledgers[number].set_gpus([ALL[n] for n in value])
            elif what == "others":
                gpu = ALL[number]
                used[gpu.uuid] = min(value * GIB, gpu.memory_bytes)
                for ledger in ledgers:
                    ledger.set_others(used)
            elif what == "ask":
                asked.append(f"k{len(asked)}")
                ledgers[number].claim(asked[-1], Size.parse(value), this_process(), {})
            elif what == "end" and asked:
                ledgers[0].release(asked[number % len(asked)])
            elif what == "die":
                ledgers[number].close()
                ledgers[number] = Ledger(path)
                ledgers[number].set_gpus(ALL)
                ledgers[number].set_others(used)
            after = ledgers[0].used()
            for gpu in ALL:
                held = after.get(gpu.uuid, 0)
                assert held <= gpu.memory_bytes
                if held > before.get(gpu.uuid, 0):
                    assert held + used.get(gpu.uuid, 0) <= gpu.memory_bytes
    finally:
        for ledger in ledgers:
            ledger.close()
