"""A kernel's idle rule tells the policy of its pauses, and what that finds out is kept."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from jupyter_gpu_share.idle import Calibration, IdlePolicy
from jupyter_gpu_share.kernels._checkpoint import Look
from jupyter_gpu_share.kernels._idle_rule import IdleRule, Use
from jupyter_gpu_share.kernels.found_out import file_of, read, write
from jupyter_gpu_share.relay import Activity
from jupyter_gpu_share.size import Size

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Kernel:
    """One that runs short cells."""

    def __init__(self, policy: IdlePolicy) -> None:
        self.rule = IdleRule(policy)
        self.cells = 0

    def cell(self, seconds: float) -> None:
        self.cells += 1
        activity = Activity(
            cells_sent=self.cells, cells_done=self.cells, last_sent=seconds, last_done=seconds
        )
        self.rule.used(activity, at(seconds))
        self.decide(seconds)

    def decide(self, seconds: float) -> datetime | None:
        situation = self.rule.situation(
            at(seconds), size=Size.parse("1/4"), group="", keep_until=None
        )
        self.rule.decide(situation, Use())
        return self.rule.release_at(situation)


def test_each_pause_of_a_minute_and_more_is_watched_once() -> None:
    policy = IdlePolicy()
    kernel = Kernel(policy)
    for moment in (0, 30, 600, 610, 700, 9000):
        kernel.cell(moment)
    assert policy.calibration.seen == 3


def test_a_pause_in_which_the_kernel_worked_by_itself_is_none() -> None:
    policy = IdlePolicy()
    kernel = Kernel(policy)
    kernel.cell(0)
    kernel.decide(100)
    kernel.rule.looked(Look(kept=None, background=["a thread"]), Use(), at(100))  # type: ignore[arg-type]
    kernel.cell(130)
    assert policy.calibration.seen == 0


def test_the_plan_of_a_pause_stays_while_others_are_watched() -> None:
    policy = IdlePolicy()
    kernel = Kernel(policy)
    kernel.cell(0)
    before = kernel.decide(10)
    for _ in range(500):
        policy.calibration.of(policy.aim).waited()
    assert kernel.decide(20) == before
    kernel.cell(100)
    assert kernel.decide(110) != before


def test_what_was_found_out_is_there_for_the_next_server(tmp_path: Path) -> None:
    path = tmp_path / "new" / "waits.json"
    found = Calibration()
    write(path, found)
    assert not path.exists(), "nothing was found out"
    for _ in range(40):
        found.of(0.06).waited()
    write(path, found)
    assert read(path).to_json() == found.to_json()
    assert path.stat().st_mode & 0o777 == 0o600
    less = Calibration()
    less.of(0.06).found()
    write(path, less)
    assert read(path).seen == 40, "another server of the same user has seen more"


@pytest.mark.parametrize("text", ["", "{", '{"aims": 1}', "[" * 10_000])
def test_a_file_that_is_damaged_is_told_of_and_left(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "waits.json"
    path.write_text(text)
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert read(path).seen == 0
    assert "cannot be read" in caplog.text


def test_the_file_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "../evil host")
    assert file_of().name == "waits-.._evil_host.json"
