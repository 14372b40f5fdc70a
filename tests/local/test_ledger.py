"""The ledger: claims, the queue, the dead, and files that cannot be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Claim, Ledger
from jupyter_gpu_share.engines.local._processes import (
    CLAIM_VARIABLE,
    Holder,
    carriers,
    this_process,
)
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


def test_the_queue_is_first_come_first_served(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    whole, small = ask(ledger, "b", "1"), ask(ledger, "c", "1/4")
    assert (whole.position, whole.of) == (1, 1)
    assert (small.position, small.of) == (2, 2)
    assert "80 GiB of one GPU" in whole.reason
    assert "came before" in small.reason
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


def test_another_size_is_swapped_in_one_step(ledger: Ledger) -> None:
    ask(ledger, "a", "3/4")
    ask(ledger, "b", "3/4")
    assert ask(ledger, "a", "1").held, "its own share counts as free for it"
    assert ledger.used() == {"G0": 80 * GIB}
    assert ask(ledger, "a", "1/4").held
    assert ledger.turn("b").position == 0, "what shrinking freed is given to who waits"


def test_a_size_that_does_not_fit_waits_without_the_old_share(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    ask(ledger, "b", "1/2")
    assert ask(ledger, "a", "3/4").position == 1
    assert ledger.used() == {"G0": 40 * GIB}


def test_whether_a_size_fits(ledger: Ledger) -> None:
    ask(ledger, "a", "1/2")
    assert ledger.fits(None, Size.parse("1/2")) is None
    assert "emptiest" in str(ledger.fits(None, Size.parse("3/4")))
    assert ledger.fits("a", Size.parse("1")) is None
    ask(ledger, "b", "1")
    assert "came before" in str(ledger.fits(None, Size.parse("1/4")))
    assert ledger.fits("a", Size.parse("3/4")) is None


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


# -- files that cannot be used ---------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"no database at all, for certain" * 200, None])
def test_a_damaged_file(path: Path, damage: bytes | None) -> None:
    own = Ledger(path)
    own.set_gpus(ONE)
    for number in range(200):
        ask(own, str(number), "1/400")
    own.close()
    content = path.read_bytes()
    path.write_bytes(damage or content[: len(content) // 2])
    with pytest.raises(LedgerError, match="is damaged; end all kernels") as caught:
        Ledger(path)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_a_newer_file(path: Path) -> None:
    Ledger(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(LedgerError, match="newer"):
        Ledger(path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.db")


def test_a_file_that_somebody_keeps_locked(ledger: Ledger, path: Path) -> None:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="held by another program"):
        Ledger(path, timeout=0.05)
    raw.execute("ROLLBACK")
    raw.close()


def in_own_mounts(script: str, folder: Path) -> str:
    """Run Python with mounts that nobody else sees; what it printed."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("read-only and full disks are made by mounting, which needs root and unshare")
    code = textwrap.dedent(script)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


_MOUNTED = """
    import subprocess, sys
    from pathlib import Path
    from jupyter_gpu_share.engines.local._gpu import Gpu
    from jupyter_gpu_share.engines.local._ledger import Ledger
    from jupyter_gpu_share.engines.local._processes import this_process
    from jupyter_gpu_share.errors import LedgerError
    from jupyter_gpu_share.size import Size

    folder = Path(sys.argv[1])

    def mount(*options):
        subprocess.run(["mount", *options, str(folder)], check=True)

    def claim(ledger, name):
        ledger.claim(name, Size.parse("1/1000000"), this_process(), {"path": "x" * 2000})
"""


def test_a_read_only_disk(tmp_path: Path) -> None:
    said = in_own_mounts(
        _MOUNTED
        + """
    mount("-t", "tmpfs", "tmpfs")
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus([Gpu("G0", "A100", 0, 10**12)])
    ledger.close()
    mount("-o", "remount,ro")
    for path in (folder / "ledger.db", folder / "new" / "ledger.db"):
        try:
            claim(Ledger(path), "a")
        except LedgerError as error:
            print(error)
    mount("-o", "remount,rw")
    claim(Ledger(folder / "ledger.db"), "a")
    print("writable again")
    """,
        tmp_path,
    )
    lines = said.splitlines()
    assert len(lines) == 3, said
    assert all("cannot be written; give this user the right" in line for line in lines[:2]), said
    assert lines[2] == "writable again"


def test_a_full_disk(tmp_path: Path) -> None:
    said = in_own_mounts(
        _MOUNTED
        + """
    mount("-t", "tmpfs", "-o", "size=128k", "tmpfs")
    ledger = Ledger(folder / "ledger.db")
    ledger.set_gpus([Gpu("G0", "A100", 0, 10**12)])
    number = 0
    try:
        for number in range(1000):
            claim(ledger, str(number))
    except LedgerError as error:
        print(error)
    before = len(ledger.claims())
    assert before == number, "the refused claim left nothing"
    mount("-o", "remount,size=1m")
    for name in range(number):
        ledger.release(str(name))
    claim(ledger, "again")
    print("room again")
    """,
        tmp_path,
    )
    lines = said.splitlines()
    assert "is full; make room there" in lines[0], said
    assert lines[1] == "room again"
