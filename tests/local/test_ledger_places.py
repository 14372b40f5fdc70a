"""One ledger for servers that see different processes, different GPUs, or no ledger any more."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from namespaces import in_own_namespace
from waiting import PATIENCE

from jupyter_gpu_share.engines import _places
from jupyter_gpu_share.engines._places import Place
from jupyter_gpu_share.engines._processes import Holder, sweep_folders, this_process
from jupyter_gpu_share.engines.local import __main__ as by_hand
from jupyter_gpu_share.engines.local import _doctor
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Claim, Ledger
from jupyter_gpu_share.size import Size

GIB = 2**30
TWO = [Gpu(f"G{n}", "A100", n, 80 * GIB) for n in range(2)]
#: A process that never was: numbers above the system's largest are not given.
DEAD = Holder(2**30, "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / "ledger.db"


@contextmanager
def server(path: Path, gpus: list[Gpu] = TWO[:1]) -> Iterator[Ledger]:
    own = Ledger(path)
    own.set_gpus(gpus)
    yield own
    own.close()


def ask(ledger: Ledger, kernel: str, size: str, holder: Holder | None = None) -> Claim:
    info = {"path": f"{kernel}.ipynb", "user": "ann"}
    return ledger.claim(kernel, Size.parse(size), holder or this_process(), info)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Place:
    """This process runs outside of containers, on a machine that has an id."""
    monkeypatch.setattr(_places, "_namespace", lambda: _places._FIRST)
    monkeypatch.setattr(_places, "_machine", lambda: "an id")
    return _places.here()


def move(path: Path, place: Place) -> None:
    """Have all claims come from elsewhere."""
    raw = sqlite3.connect(path)
    with raw:
        raw.execute(
            "UPDATE claims SET boot = ?, namespace = ?, host = ?, machine = ?",
            (place.boot, place.namespace, place.host, place.machine),
        )
    raw.close()


# -- other namespaces and machines -----------------------------------------------------------


_CONTAINER = """
import sys
from pathlib import Path
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.size import Size

ledger = Ledger(Path(sys.argv[1]))
ledger.set_gpus([Gpu("G0", "A100", 0, 80 * 2**30)])
claim = ledger.claim(sys.argv[2], Size.parse("1"), this_process(), {})
print("holds" if claim.held else "waits", flush=True)
sys.stdin.readline()
print(sorted((claim.kernel_id, claim.held) for claim in ledger.claims()), flush=True)
"""


def test_two_containers_with_one_ledger_do_not_both_hold_the_gpu(path: Path) -> None:
    """In each the other's process number is nobody's, or somebody else's."""
    with (
        in_own_namespace(_CONTAINER, str(path), "a") as first,
        in_own_namespace(_CONTAINER, str(path), "b") as second,
    ):
        assert sorted([first.line(), second.line()]) == ["holds", "waits"]
        with server(path) as own:
            assert not ask(own, "c", "1/4").held
            assert own.sweep() == []
        first.tell("")
        assert len(first.line().split("), (")) == 3


def test_an_earlier_boot_of_this_machine_holds_nothing(path: Path, machine: Place) -> None:
    with server(path) as own:
        ask(own, "a", "1")
        move(path, replace(machine, boot="another"))
        assert own.has_dead()
        assert own.sweep() == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "4026532178"},
        {"namespace": ""},
        {"boot": "another", "machine": "another"},
        {"boot": "another", "machine": ""},
        {"boot": "another", "host": "another"},
        {"boot": "another", "namespace": "4026532178", "machine": ""},
    ],
)
def test_what_cannot_be_looked_up_is_not_dead(
    path: Path, machine: Place, changes: dict[str, str]
) -> None:
    with server(path) as own:
        ask(own, "a", "1", DEAD)
        move(path, replace(machine, **changes))
        assert not own.has_dead()
        assert own.sweep() == []
        assert not ask(own, "b", "1").held
        assert [claim.unknown for claim in own.living()] == [True, False]


def test_in_a_container_another_boot_may_be_another_machine(
    path: Path, machine: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of one image on two machines have one id."""
    monkeypatch.setattr(_places, "_namespace", lambda: "4026532178")
    assert _places.here().machine == ""
    with server(path) as own:
        ask(own, "a", "1", DEAD)
        move(path, replace(_places.here(), boot="another"))
        assert own.sweep() == []


def test_whose_claim_it_is_and_how_it_is_freed(
    path: Path, machine: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(path) as own:
        ask(own, "a", "1", DEAD)
        move(path, replace(machine, namespace="4026532178", host="node7"))
        waiting = ask(own, "b", "1")
        (finding,) = _doctor.about_unknown(path, own.claims())
        assert finding.what.startswith(
            "A share of 1 is held from another container on node7: kernel a, notebook a.ipynb, "
            "user ann."
        )
        claim = own.claims()[0]
        assert "another container on node7" in _doctor.unknown_holder(claim)
        assert (finding.fix or "").endswith(
            f"python -m jupyter_gpu_share.engines.local '{path}' {claim.token}"
        )
        assert by_hand.main([str(path), waiting.token]) == 1
        assert by_hand.main([str(path), "nothing"]) == 1
        assert by_hand.main([f"{path}.not", claim.token]) == 1
        assert not Path(f"{path}.not").exists()
        assert by_hand.main([str(path), claim.token]) == 0
        assert capsys.readouterr().out == "The share of kernel a (1) is free.\n"
        assert own.turn("b").held


def test_folders_of_kernels_of_another_container_are_left(tmp_path: Path) -> None:
    gone = tmp_path / DEAD.folder
    gone.mkdir()
    others = tmp_path / f"in00000000-{DEAD.pid}-{DEAD.start_time}"
    others.mkdir()
    mine = tmp_path / this_process().folder
    mine.mkdir()
    sweep_folders(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([others, mine])


def test_the_version_before_takes_no_folder_of_a_living_process_for_one_of_a_dead() -> None:
    """It looks for a number and a start time, and both may run at once."""
    assert not this_process().folder.partition("-")[0].isdigit()


# -- servers that see different GPUs ---------------------------------------------------------


def test_who_sees_fewer_gpus_takes_none_from_others(path: Path) -> None:
    with server(path, TWO) as wide, server(path, TWO[:1]) as narrow:
        assert [gpu.uuid for gpu in wide.gpus()] == ["G0", "G1"]
        ask(narrow, "n", "1")
        assert [piece.uuid for piece in ask(wide, "w", "1").pieces] == ["G1"]


def test_nobody_is_given_a_gpu_that_its_server_does_not_see(path: Path) -> None:
    with server(path, TWO) as wide, server(path, TWO[:1]) as narrow:
        ask(wide, "a", "1")
        waits = ask(narrow, "n", "1")
        assert not waits.held
        assert "the emptiest has 0 B" in waits.reason
        assert narrow.fits(None, Size.parse("1/4")) is not None
        assert wide.fits(None, Size.parse("1/4")) is None
        assert not wide.turn("n").held, "whoever serves the queue"
        assert ask(wide, "b", "1/4").held, "on a GPU that nobody waits for who could have it"
        wide.release("a")
        assert [piece.uuid for piece in narrow.turn("n").pieces] == ["G0"]


def test_a_gpu_that_is_whole_again_is_not_given_out_below_its_instances(path: Path) -> None:
    """Nor the other way round, while a kernel holds what is not there any more."""
    halves = [Gpu(f"M{n}", "A100", 0, 40 * GIB, profile="3g.40gb", parent="G0") for n in range(2)]
    with server(path, halves) as own, server(path, TWO[:1]) as late:
        assert ask(own, "a", "mig-3g.40gb").held
        own.set_gpus(TWO[:1])
        assert not ask(late, "b", "3/4").held
        assert late.fits(None, Size.parse("1/2")) is not None
        own.release("a")
        assert late.turn("b").held
        own.set_gpus(halves)
        assert not ask(own, "c", "mig-3g.40gb").held


def test_what_is_shown_as_free_can_be_had(path: Path) -> None:
    """Not the instances of a GPU that is held as a whole, nor a GPU below them."""
    halves = [Gpu(f"M{n}", "A100", 0, 40 * GIB, profile="3g.40gb", parent="G0") for n in range(2)]

    def free(ledger: Ledger) -> dict[str, int]:
        return {uuid: held.free_bytes // GIB for uuid, held in ledger.holdings().items()}

    with server(path, TWO) as own, server(path, TWO[1:]) as other:
        assert ask(own, "a", "1/4").held
        own.set_gpus([*halves, TWO[1]])
        assert free(own) == {"M0": 0, "M1": 0, "G1": 80}
        waits = ask(own, "b", "mig-3g.40gb")
        assert "2 of 2" in waits.reason
        own.release("a")
        assert own.turn("b").held
        own.set_gpus(TWO)
        assert free(own) == {"G0": 40, "G1": 80}
        other.set_others({"G1": 60 * GIB})
        assert free(own) == {"G0": 40, "G1": 20}, "whichever server knows of others"
        assert "40 GiB of 80 GiB free" in str(own.fits(None, Size.parse("3/4")))


def test_who_sees_no_gpu_is_given_none(path: Path) -> None:
    """As where the one that its CUDA_VISIBLE_DEVICES names is lost."""
    with server(path, TWO) as wide, server(path, TWO[:1]) as narrow:
        held = ask(narrow, "held", "1/4")
        narrow.set_gpus(())
        waits = ask(narrow, "n", "1/4")
        assert not waits.held
        assert waits.reason == "No GPU that it can have is there now."
        assert narrow.fits(None, Size.parse("1/4")) == waits.reason
        assert not wide.turn("n").held, "whoever serves the queue"
        back = narrow.claim(
            "back", Size.parse("1/4"), this_process(), {}, only={held.pieces[0].uuid}
        )
        assert not back.held
        assert not wide.turn("back").held, "not even where it was"
        narrow.set_gpus(TWO[:1])
        assert narrow.turn("n").pieces == held.pieces


def test_what_one_server_knows_of_others_counts_for_all(path: Path) -> None:
    """Whoever serves the queue may not see that GPU, and one in a container cannot tell."""
    with server(path, TWO) as wide, server(path, TWO[:1]) as narrow:
        wide.set_others({"G0": 50 * GIB, "G1": 50 * GIB})
        assert not ask(narrow, "n", "1/2").held
        waits = ask(wide, "w", "1/2")
        assert "30 GiB of 80 GiB free" in waits.reason
        assert not narrow.turn("w").held
        path.unlink()
        narrow.follow()
        wide.follow()
        assert not narrow.turn("n").held, "also in a new file"
        wide.set_others({"G0": 50 * GIB})
        assert [piece.uuid for piece in narrow.turn("w").pieces] == ["G1"]
        wide.close()
        assert narrow.turn("n").held, "with who knew of them"


def test_a_size_is_swapped_on_gpus_that_the_server_sees(path: Path) -> None:
    with server(path, TWO), server(path, TWO[:1]) as narrow:
        ask(narrow, "a", "1/2")
        ask(narrow, "b", "1/2")
        assert not ask(narrow, "a", "3/4").held


_KILLED = """
import os, sys
from pathlib import Path
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger

Ledger(Path(sys.argv[1])).set_gpus([Gpu("G1", "A100", 1, 80 * 2**30)])
os._exit(0)
"""


def test_a_gpu_goes_with_the_last_server_that_sees_it(path: Path) -> None:
    with server(path, TWO[:1]) as narrow:
        subprocess.run([sys.executable, "-c", _KILLED, str(path)], timeout=PATIENCE, check=True)
        assert [gpu.uuid for gpu in narrow.gpus()] == ["G0", "G1"]
        narrow.sweep()
        assert [gpu.uuid for gpu in narrow.gpus()] == ["G0"]


# -- a ledger that is removed ----------------------------------------------------------------


def test_what_kernels_hold_is_written_again(path: Path) -> None:
    with server(path) as own, server(path) as other:
        held, waits = ask(own, "a", "3/4"), ask(own, "b", "1/2")
        own.record_kernel("a", this_process())
        path.unlink()
        own.follow()
        assert not ask(other, "c", "1/2").held
        again = {claim.kernel_id: claim for claim in other.claims()}
        assert (again["a"].token, again["a"].pieces) == (held.token, held.pieces)
        assert again["a"].kernel == this_process()
        assert (again["b"].token, again["b"].position) == (waits.token, 1)
        own.release("a")
        assert other.turn("b").held


def test_also_where_the_whole_folder_was_removed(path: Path) -> None:
    with server(path) as own:
        held = ask(own, "a", "3/4")
        shutil.rmtree(path.parent)
        assert not ask(own, "b", "1/2").held
        assert own.claims()[0].token == held.token


def test_also_of_a_gpu_that_is_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may come back, with what the kernel has there."""
    with server(path, TWO) as own:
        own.claim("a", Size.parse("3/4"), this_process(), {}, only={"G1"})
        own.set_gpus(TWO[:1])
        path.unlink()
        own.follow()
        assert own.used() == {"G1": 60 * GIB}
        assert caplog.text == ""
        own.set_gpus(TWO)
        assert not own.claim("b", Size.parse("1/2"), this_process(), {}, only={"G1"}).held


def test_what_others_got_meanwhile_is_theirs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with server(path) as own, server(path) as other:
        ask(own, "a", "3/4")
        ask(own, "small", "1/8")
        path.unlink()
        assert ask(other, "b", "1/2").held
        with caplog.at_level(logging.ERROR):
            own.follow()
        assert "the share of kernel a has been given to others since" in caplog.text
        assert [(c.kernel_id, c.held) for c in own.claims()] == [("b", True), ("small", True)]
        own.follow()
        assert len(caplog.records) == 1


def test_what_was_given_back_is_not_written_again(path: Path) -> None:
    with server(path) as own:
        ask(own, "a", "3/4")
        own.release("a")
        path.unlink()
        own.follow()
        assert own.claims() == []
