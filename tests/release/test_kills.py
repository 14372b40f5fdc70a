"""Kernel, proof or server are killed while variables are saved, proven or brought back.

Afterwards the variables are there once and whole; or their kernel's share was never given back,
and whoever asked was told. The instants are drawn from a seed, over the time that each way takes:
``make faults`` does 200. One that fails tells its own seed, from which it can be run alone::

    JUPYTER_GPU_SHARE_FAULT_ONE=20260301-kill-17 pytest tests/release/test_kills.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from release.kills import LOST, WHOLE, Spans, Target, files, kill, measured, watch
from release.machine import faults_in_log, kernels_of
from release.pages import Heard, Page
from rounds import ROUNDS, SEED
from servers import Server, run_server, stop_server, until
from waiting import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(900)]

ONE = os.environ.get("JUPYTER_GPU_SHARE_FAULT_ONE", "")
#: Instants of one test.
BATCH = 10 if ROUNDS > 1 else 5
ARGUMENTS = (
    "--IdlePolicy.in_place=False",
    "--IdlePolicy.rule=never",
    "--AsyncIOLoopKernelRestarter.time_to_dead=0.5",
    "--AsyncIOLoopKernelRestarter.restart_limit=100",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For kernels of which only their own processes are killed."""
    if ONE and "-kill-" not in ONE:
        pytest.skip("another test is to be run alone")
    running = run_server(tmp_path_factory.mktemp("kills"), *ARGUMENTS)
    yield running
    stop_server(running)
    assert not faults_in_log(running), faults_in_log(running)


@pytest.fixture(scope="module")
def mortal(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    """A server that is killed itself, and the next ones in its place."""
    found = Mortal(run_server(tmp_path_factory.mktemp("mortal"), *ARGUMENTS))
    yield found
    stop_server(found.server)
    assert not faults_in_log(found.server), faults_in_log(found.server)


@pytest.fixture(scope="module")
def spans(server: Server) -> Spans:
    target = Target(server, "measured")
    target.start()
    try:
        return measured(target)
    finally:
        target.close()


@dataclass
class Mortal:
    """Whoever is the server at the moment."""

    server: Server

    def kill(self) -> None:
        """Kill it. Its kernels are given the time to end by themselves."""
        kernels = kernels_of(self.server)
        kill({self.server.process.pid})
        self.server.process.wait(PATIENCE)
        assert not faults_in_log(self.server), faults_in_log(self.server)
        until(lambda: not any(map(alive, kernels)), "its kernels end with the server")

    def replace(self) -> None:
        """Start the next one."""
        folder = self.server.folder.parent
        for info in (folder / "runtime").glob("jpserver-*"):
            info.unlink()
        self.server = run_server(folder, *ARGUMENTS)


# -- what is killed ------------------------------------------------------------------------------


def kernel_during_save(server: Server, spans: Spans, seed: str) -> str:
    target = Target(server, seed)
    target.start()
    try:
        mine = target.processes
        asked = target.release()
        time.sleep(target.rng.uniform(0, spans.save))
        killed = kill(mine)
        status, body = asked.result(PATIENCE)
        if status == 200:
            assert body["kept"]["how"] == "snapshot", body
            assert files(server, target.kernel_id), "it was told to be saved"
        else:
            assert killed and "ended" in body["message"], (status, body)
        kept = watch_settled(target, killed)
        assert kept or status != 200, "the share was given back, and nothing is kept"
        assert target.variables() == (target.before if kept else LOST)
        target.check_once()
        return f"{status}, {'saved' if kept else 'lost with the kernel'}"
    finally:
        target.close()


def watch_settled(target: Target, killed: set[int]) -> bool:
    """Whether the variables of a kernel that was killed are saved, once it is known."""

    def settled() -> str:
        row = target.row()
        if row["state"] == "released":
            assert row["kept"]["how"] == "snapshot", row
            return "saved"
        again = row["state"] in ("active", "idle") and target.processes - killed
        return "again" if again else ""

    return bool(until(settled, "it is known what became of it") == "saved")


def proof_during_save(server: Server, spans: Spans, seed: str) -> str:
    target = Target(server, seed)
    target.start()
    try:
        asked = target.release()
        proving = watch(target.proving, "its variables are read back")
        time.sleep(target.rng.uniform(0, spans.proof))
        killed = kill(set(proving) & set(target.proving()))
        status, body = asked.result(PATIENCE)
        if killed and status != 200:
            assert "has ended by signal 9" in body["message"], body
            assert not files(server, target.kernel_id)
            assert target.row()["share"], "its share stays"
        else:  # it had told all by then
            assert (status, body["kept"]["how"]) == (200, "snapshot"), (status, body)
        assert target.variables() == target.before
        target.check_once()
        return f"{status}, whole"
    finally:
        target.close()


def kernel_during_load(server: Server, spans: Spans, seed: str) -> str:
    target = Target(server, seed)
    target.start()
    try:
        assert target.release().result(PATIENCE)[0] == 200
        page = Page(server, target.kernel_id, Heard())
        target.send(page, "pass", whole=WHOLE)
        new = watch(lambda: target.processes, "a new process is there")
        time.sleep(target.rng.uniform(0, spans.load))
        killed = kill(new)
        kept = watch_settled(target, killed) if killed else True
        page.close()
        found = target.variables()
        if found == LOST:
            assert not kept
            assert killed <= target.made_in(), "they were given up before they were there"
        else:
            assert found == target.before
        target.check_once()
        return "lost with the kernel that had them" if found == LOST else "whole"
    finally:
        target.close()


def server_during_save(mortal: Mortal, spans: Spans, seed: str) -> str:
    target = Target(mortal.server, seed)
    target.start()
    try:
        asked = target.release()
        time.sleep(target.rng.uniform(0, spans.save))
        mortal.kill()
        return after_server(mortal, target, must=status_of(asked) == 200)
    finally:
        target.close()


def server_during_load(mortal: Mortal, spans: Spans, seed: str) -> str:
    target = Target(mortal.server, seed)
    target.start()
    try:
        assert target.release().result(PATIENCE)[0] == 200
        page = Page(target.server, target.kernel_id, Heard())
        target.send(page, "pass", whole=WHOLE)
        new = watch(lambda: target.processes, "a new process is there")
        time.sleep(target.rng.uniform(0, spans.load))
        mortal.kill()
        page.close()
        return after_server(mortal, target, must=not new <= target.made_in())
    finally:
        target.close()


def status_of(asked: Future[tuple[int, Any]]) -> int | None:
    """Of the answer that came before the server was killed; None: none did."""
    try:
        return asked.result(PATIENCE)[0]
    except (OSError, HTTPException):
        return None


def after_server(mortal: Mortal, target: Target, *, must: bool) -> str:
    """The next server has all that was saved, or nothing; and nothing else is left."""
    kept = any(name.endswith(".kept") for name in files(mortal.server, target.kernel_id))
    assert kept or not must, "what was told to be saved is gone"
    mortal.replace()
    target.server = second = mortal.server
    if kept:
        until(lambda: target.kernel_id in second.kernels(), "the kernel is taken over")
        second.wait_for(target.kernel_id, "released")
        assert target.variables() == target.before
        target.check_once()
    else:
        until(lambda: not files(second, target.kernel_id), "no part of a file is left")
        assert second.kernels() == []
    return "whole" if kept else "lost with the server"


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


KILLS: tuple[Callable[[Any, Spans, str], str], ...] = (
    kernel_during_save,
    proof_during_save,
    kernel_during_load,
    server_during_save,
    server_during_load,
)


@pytest.mark.parametrize("batch", range(1 if ONE else ROUNDS))
def test_variables_are_there_once_and_whole_whoever_is_killed(
    server: Server, mortal: Mortal, spans: Spans, batch: int
) -> None:
    turns = [int(ONE.rpartition("-")[2])] if ONE else range(batch * BATCH, (batch + 1) * BATCH)
    base = ONE.partition("-")[0] or SEED
    for turn in turns:
        what, seed = KILLS[turn % len(KILLS)], f"{base}-kill-{turn}"
        try:
            begun = time.monotonic()
            became = what(mortal if "server" in what.__name__ else server, spans, seed)
            print(f"{seed}: {what.__name__}: {became} ({time.monotonic() - begun:.1f} s)")
        except Exception as error:
            raise AssertionError(f"seed {seed}, {what.__name__}: {error}") from error
