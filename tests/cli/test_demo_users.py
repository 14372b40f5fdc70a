"""The demo with several users: what it shows, what it needs, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_demo import dry_run
from waiting import PATIENCE, eventually

from jupyter_gpu_share.cli import _demo_users, main
from jupyter_gpu_share.cli._demo_users import free_numbers, play
from jupyter_gpu_share.errors import EngineError

COMMAND = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"
DEMO = [sys.executable, "-c", COMMAND, "demo", "--users"]

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


def processes_of(uids: set[int]) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid in uids:
                found.append(process)
    return found


def uids_in(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"\buid (\d+)", text)}


@only_root
@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 4])
def test_a_limit_holds_and_an_idle_share_goes_round(count: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, str(count)],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    share = {3: "1/2", 4: "1/3"}[count]
    assert f"may have {share} GPU and now has {share} GPU" in done.stdout
    assert re.search(r"uid \d+ +\S+ +- +queued", done.stdout)
    assert re.search(r"uid \d+ +\S+ +- +released", done.stdout)
    assert "goes on: found is" in done.stdout
    assert "All shares are back." in done.stdout
    uids = uids_in(done.stdout)
    assert len(uids) == count
    assert not processes_of(uids)
    assert not [uid for uid in uids if Path(f"/tmp/gpu-share-{uid}").exists()]
    assert not list(tmp_path.iterdir())


@only_root
@pytest.mark.slow
async def test_an_interrupted_demo_ends_all_that_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        seen, end = "", time.monotonic() + 2 * PATIENCE
        while "All of the GPU is held" not in seen or len(uids_in(seen)) < 3:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            assert ready and time.monotonic() < end, seen
            seen += os.read(process.stdout.fileno(), 2**16).decode()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=2 * PATIENCE)
    assert (process.returncode, told) == (130, b"gpu-share: interrupted\n")
    uids = uids_in(seen)
    await eventually(lambda: not processes_of(uids), "its users' processes are gone")
    assert not list(tmp_path.iterdir())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["demo", "--users", "3", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_needs_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root: each of them is a user of the system" in refused(capsys)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs the command setpriv, of the package util-linux" in refused(capsys)


def test_it_has_no_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out the other options" in refused(capsys, "--engine", "local")
    for number in ("2", "9", "many"):
        with pytest.raises(SystemExit):
            main(["demo", "--users", number])
        assert "is no number of users from 3 to 8" in capsys.readouterr().err


def test_make_demo_with_users() -> None:
    assert dry_run("demo", "USERS=3")[-1].strip().endswith("jupyter-gpu-share demo  --users 3")


def test_numbers_that_somebody_has_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_numbers(3)
    assert len(set(free)) == 3
    monkeypatch.setattr(_demo_users, "_has_account", lambda uid: uid == free[1])
    others = free_numbers(3)
    assert free[1] not in others
    assert others[0] == free[0]


@only_root
def test_numbers_under_which_something_runs_are_left_out() -> None:
    (first,) = free_numbers(1)
    with subprocess.Popen(["sleep", "99"], user=first) as process:
        try:
            assert first not in free_numbers(3)
        finally:
            process.kill()


class Played:
    """A user who answers as it is told to."""

    def __init__(self, uid: int, **answers: str) -> None:
        self.uid, self.name = uid, f"uid {uid}"
        self._answers = answers

    def rows(self) -> list[dict[str, Any]]:
        return []

    async def until(self, *states: str) -> None:
        if states[0] not in self._answers:
            await _for_ever()

    async def ask(self, verb: str, name: str, *_: str) -> str:
        answer = self._answers.get(f"{verb}_{name}", "")
        if answer == "waits":
            await _for_a_turn()
        return answer

    async def refused(self, *_: str) -> str:
        if "limited" not in self._answers:
            raise EngineError("The demo did not show what it should: the limit did not hold.")
        return self._answers["limited"]


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _for_a_turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("first", "late", "why"),
    [
        (
            {"limited": "x", "released": "", "run_work": "1"},
            {"queued": "", "start_late": "waits"},
            "",
        ),
        ({"released": "", "run_work": "1"}, {"queued": "", "start_late": "waits"}, "the limit"),
        ({"limited": "x", "released": "", "run_work": "1"}, {}, "nobody waited"),
        (
            {"limited": "x", "released": "", "run_work": "lost"},
            {"queued": "", "start_late": "waits"},
            "a variable became 'lost'",
        ),
    ],
)
async def test_it_fails_where_it_does_not_show_what_it_should(
    first: dict[str, str], late: dict[str, str], why: str
) -> None:
    users: Any = [Played(1, **first), Played(2), Played(3, **late)]
    if not why:
        await play(users, "1/2")
        return
    with pytest.raises(EngineError, match=why):
        await play(users, "1/2")
