"""The ledger: claims, the queue and the dead."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines._processes import (
    CLAIM_VARIABLE,
    Holder,
    carriers,
    this_process,
)
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Claim, Ledger
from jupyter_gpu_share.errors import LedgerError
from jupyter_gpu_share.size import Size

GIB = 2**30
ONE = (Gpu("G0", "A100", 0, 80 * GIB),)
#: A process that never was: numbers above the system's largest are not given.
DEAD = Holder(2**30, "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    own = Ledger(path)
    own.set_gpus(ONE)
    yield own
    own.close()


def ask(ledger: Ledger, kernel: str, size: str, holder: Holder | None = None) -> Claim:
    return ledger.claim(kernel, Size.parse(size), holder or this_process(), {"path": kernel})


def test_claims_are_held_until_released(ledger: Ledger) -> None:
    claim = ask(ledger, "a", "1/4")
    assert claim.held
    assert [(piece.uuid, piece.memory_bytes) for piece in claim.pieces] == [("G0", 20 * GIB)]
    assert ledger.used() == {"G0": 20 * GIB}
    assert ledger.release("a")
    assert not ledger.release("a")
    assert ledger.used() == {}


def test_a_share_is_taken_back_under_its_old_token_and_where_it_was(path: Path) -> None:
    own = Ledger(path)
    own.set_gpus([Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(2)])
    first = ask(own, "a", "1")
    own.release("a")
    rival = ask(own, "b", "1")
    assert rival.pieces == first.pieces
    again = own.claim(
        "a", first.size, this_process(), {}, token=first.token, only={first.pieces[0].uuid}
    )
    assert again.token == first.token
    assert not again.held
    assert "the emptiest has 0 B of 80 GiB free" in again.reason
    own.release("b")
    assert own.turn("a").pieces == first.pieces
    own.close()


def test_the_queue_is_first_come_first_served(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    whole, small = ask(ledger, "b", "1"), ask(ledger, "c", "1/4")
    assert (whole.position, whole.of) == (1, 1)
    assert (small.position, small.of) == (2, 2)
    assert "80 GiB of one GPU" in whole.reason
    assert "came earlier" in small.reason
    ledger.release("a")
    assert ledger.turn("b").held
    assert ledger.turn("c").position == 1
    ledger.release("b")
    assert ledger.turn("c").held


def test_leaving_the_queue_lets_the_next_one_in(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    ask(ledger, "b", "1")
    ask(ledger, "c", "1/4")
    ledger.release("b")
    assert ledger.turn("c").held


def test_a_restart_keeps_its_pieces(ledger: Ledger) -> None:
    first = ask(ledger, "a", "3/4")
    ask(ledger, "b", "3/4")
    again = ask(ledger, "a", "3/4")
    assert (again.token, again.pieces) == (first.token, first.pieces)


def test_asking_again_keeps_the_place_in_the_queue(ledger: Ledger) -> None:
    ask(ledger, "a", "1")
    first = ask(ledger, "b", "1/2")
    ask(ledger, "c", "1/2")
    again = ask(ledger, "b", "1/2")
    assert (again.token, again.position) == (first.token, 1)
    assert ask(ledger, "b", "3/4").position == 2, "another size is another request"


def test_a_share_of_a_gpu_that_is_gone_is_not_kept(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    ledger.set_gpus([Gpu("G9", "A100", 0, 80 * GIB)])
    assert [piece.uuid for piece in ask(ledger, "a", "1/2").pieces] == ["G9"]
    assert ledger.used() == {"G9": 40 * GIB}


def test_another_size_is_swapped_in_one_step(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4")
    assert ask(ledger, "a", "1").held, "its own share counts as free for it"
    assert ledger.used() == {"G0": 80 * GIB}
    ask(ledger, "b", "3/4")
    assert ask(ledger, "a", "1/4").held
    assert ledger.turn("b").position == 0, "what shrinking freed is given to who waits"


def test_a_size_that_does_not_fit_waits_without_the_old_share(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    ask(ledger, "b", "1/2")
    assert ask(ledger, "a", "3/4").position == 1
    assert ledger.used() == {"G0": 40 * GIB}


def test_a_living_kernel_holds_another_size_where_it_is(ledger: Ledger, path: Path) -> None:
    first = ask(ledger, "a", "1/2")
    ask(ledger, "b", "1/4")
    other = Ledger(path)
    for size, amount in (("1/4", 20), ("3/4", 60), ("10GiB", 10), ("1/2", 40)):
        changed = ledger.change("a", Size.parse(size), {"path": size})
        assert changed is not None
        assert (changed.token, changed.held, changed.holder) == (first.token, True, first.holder)
        assert changed.info == {"path": size}
        assert [piece.memory_bytes for piece in changed.pieces] == [amount * GIB]
        assert [str(claim.size) for claim in other.claims()] == [size, "1/4"]
        assert other.used() == {"G0": (amount + 20) * GIB}
        assert ask(ledger, "a", size).token == first.token, "a restart keeps that size"
    other.close()


def test_a_change_without_room_or_only_tried_changes_nothing(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    ask(ledger, "b", "1/4")
    before = ledger.claims()
    assert ledger.change("a", Size.parse("7/8")) is None
    assert ledger.change("a", Size.parse("2x1/4")) is None, "it has one GPU"
    assert ledger.change("a", Size.parse("0")) is None
    assert ledger.change("a", Size.parse("1/4"), dry=True) is not None
    assert ledger.change("a", Size.parse("3/4"), dry=True) is not None
    assert ledger.change("a", Size.parse("7/8"), dry=True) is None
    assert ledger.claims() == before


def test_what_a_change_frees_is_given_to_who_waits(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4")
    assert not ask(ledger, "b", "1/2").held
    assert ledger.change("a", Size.parse("1/2"), dry=True) is not None
    assert [claim.held for claim in ledger.claims()] == [True, False]
    assert ledger.change("a", Size.parse("1/2")) is not None
    assert [claim.held for claim in ledger.claims()] == [True, True]
    assert ledger.used() == {"G0": 80 * GIB}
    assert ledger.change("a", Size.parse("3/4")) is None


def test_what_is_not_held_cannot_be_changed(ledger: Ledger) -> None:
    ask(ledger, "a", "1")
    ask(ledger, "b", "1/2")
    ask(ledger, "c", "1/2", DEAD)
    for kernel in ("b", "c", "nobody"):
        with pytest.raises(LedgerError, match="gone from the ledger"):
            ledger.change(kernel, Size.parse("1/4"))
    assert ledger.turn("b").position == 1


def test_a_change_stays_on_its_gpus_in_their_order(path: Path) -> None:
    own = Ledger(path)
    own.set_gpus([Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(3)])
    ask(own, "a", "1/4")
    # The first GPU is shared already, so it comes first; later the other one has less room.
    two = ask(own, "b", "2x1/4")
    assert [piece.uuid for piece in two.pieces] == ["G0", "G1"]
    own.release("a")
    own.claim("c", Size.parse("1/2"), this_process(), {}, only={"G1"})
    changed = own.change("b", Size.parse("2x1/2"))
    assert changed is not None
    assert [(piece.uuid, piece.memory_bytes >> 30) for piece in changed.pieces] == [
        ("G0", 40),
        ("G1", 40),
    ]
    assert own.change("b", Size.parse("2x3/4")) is None, "one of its GPUs has no room"
    assert own.change("b", Size.parse("3/4")) is None, "another number is another share"
    assert own.used() == {"G0": 40 * GIB, "G1": 80 * GIB}
    # A new claim would rather go where others are already.
    own.claim("d", Size.parse("1/4"), this_process(), {}, only={"G2"})
    own.release("c")
    alone = own.change("d", Size.parse("1/3"))
    assert alone is not None
    assert [piece.uuid for piece in alone.pieces] == ["G2"]
    own.close()


def test_whether_a_size_fits(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    assert ledger.fits(None, Size.parse("1/2")) is None
    assert "emptiest" in str(ledger.fits(None, Size.parse("3/4")))
    assert ledger.fits("a", Size.parse("1")) is None
    ask(ledger, "b", "1")
    assert "came earlier" in str(ledger.fits(None, Size.parse("1/4")))
    assert "came earlier" in str(ledger.fits("a", Size.parse("3/4")))
    assert ledger.fits("a", Size.parse("1/4")) is None


def test_who_grows_takes_no_room_that_somebody_waits_for(path: Path) -> None:
    own = Ledger(path)
    own.set_gpus([Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(2)])
    own.claim("a", Size.parse("1/4"), this_process(), {}, only={"G0"})
    own.claim("b", Size.parse("1/2"), this_process(), {}, only={"G1"})
    assert not ask(own, "whole", "1").held
    assert own.change("a", Size.parse("1/2")) is None, "it waits for the GPU with the least held"
    assert own.change("a", Size.parse("1/8")) is not None
    assert own.change("b", Size.parse("3/4")) is not None, "nobody waits for that one"
    # A restart with another size goes on as a newcomer does.
    assert not ask(own, "a", "1/2").held
    assert [piece.uuid for piece in own.turn("whole").pieces] == ["G0"]
    own.close()


def test_no_gpu_is_never_waited_for(ledger: Ledger) -> None:
    ask(ledger, "a", "1")
    assert ask(ledger, "b", "0").held


def test_what_others_are_told(ledger: Ledger) -> None:
    ask(ledger, "a", "1/4")
    ledger.set_info("a", {"path": "x.ipynb"})
    (claim,) = ledger.claims()
    assert claim.info == {"path": "x.ipynb"}
    assert claim.holder == this_process()


def test_changes_of_others_are_seen(ledger: Ledger, path: Path) -> None:
    ledger.changed()
    assert not ledger.changed()
    other = Ledger(path)
    ask(other, "a", "1/4")
    other.close()
    assert ledger.changed()


def test_a_kernel_without_a_claim_is_not_recorded(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="gone from the ledger"):
        ledger.record_kernel("a", this_process())
    with pytest.raises(LedgerError, match="gone from the ledger"):
        ledger.turn("a")


# -- the dead --------------------------------------------------------------------------------


def test_what_a_dead_server_held_is_free(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4", DEAD)
    assert ask(ledger, "b", "3/4").held
    assert [claim.kernel_id for claim in ledger.claims()] == ["b"]


def test_a_dead_server_leaves_the_queue(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4")
    ask(ledger, "b", "3/4", DEAD)
    assert ledger.sweep() == ["b"]


def test_a_reused_process_number_is_not_taken_for_the_holder(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4", Holder(os.getpid(), "1"))
    assert ledger.sweep() == ["a"]


def test_a_living_kernel_keeps_the_share_of_a_dead_server(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4", DEAD)
    kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    try:
        ledger.record_kernel("a", Holder.of(kernel.pid))
        assert ledger.sweep() == []
    finally:
        kernel.kill()
    # Not reaped yet: what has ended counts as dead even so.
    os.waitid(os.P_PID, kernel.pid, os.WEXITED | os.WNOWAIT)
    assert ledger.sweep() == ["a"]
    kernel.wait(PATIENCE)


def test_a_kernel_that_was_not_recorded_in_time_is_found(ledger: Ledger) -> None:
    claim = ask(ledger, "a", "3/4", DEAD)
    env = {**os.environ, CLAIM_VARIABLE: claim.token}
    with subprocess.Popen(
        [sys.executable, "-c", "print('on', flush=True); input()"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline()
        assert carriers(claim.token) == [kernel.pid]
        assert ledger.sweep() == []
        kernel.kill()
        kernel.wait(PATIENCE)
    assert ledger.sweep() == ["a"]


# -- the second guard ------------------------------------------------------------------------


def test_no_writer_can_exceed_a_gpu(ledger: Ledger, path: Path) -> None:
    first, second = ask(ledger, "a", "3/4"), ask(ledger, "b", "3/4")
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="capacity exceeded"):
        raw.execute("INSERT INTO pieces VALUES (?, 0, 'G0', ?)", (second.token, 21 * GIB))
    raw.rollback()
    with pytest.raises(sqlite3.IntegrityError, match="do not change"):
        raw.execute("UPDATE pieces SET memory_bytes = 1 WHERE token = ?", (first.token,))
    raw.close()
