"""What follows from readings, and whose processes they belong to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jupyter_gpu_share.engines._supervisor import Supervisor
from jupyter_gpu_share.engines.local._usage import process_trees

GIB = 2**30


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor(20 * GIB)


def test_near_the_share_the_user_is_told_once(supervisor: Supervisor) -> None:
    assert supervisor.judge(17 * GIB, busy=True).notice is None
    told = supervisor.judge(18 * GIB, busy=True)
    assert told.notice is not None
    assert "18 GiB of 20 GiB" in told.notice
    assert not told.interrupt
    assert supervisor.judge(19 * GIB, busy=True).notice is None
    supervisor.judge(15 * GIB, busy=True)
    assert supervisor.judge(18 * GIB, busy=True).notice is not None


def test_a_cell_above_the_share_is_stopped_at_the_second_reading(supervisor: Supervisor) -> None:
    assert not supervisor.judge(21 * GIB, busy=True).interrupt
    verdict = supervisor.judge(21 * GIB, busy=True)
    assert verdict.interrupt
    assert verdict.notice is not None
    assert "more GPU memory than its share (21 GiB of 20 GiB)" in verdict.notice


def test_a_cell_that_goes_on_above_the_share_has_more_time_before_each_stop(
    supervisor: Supervisor,
) -> None:
    stops = [n for n in range(1, 31) if supervisor.judge(21 * GIB, busy=True).interrupt]
    assert stops == [2, 6, 14, 22, 30]
    # Once memory was freed, or no cell ran, it begins anew.
    supervisor.judge(10 * GIB, busy=True)
    assert not supervisor.judge(21 * GIB, busy=True).interrupt
    assert supervisor.judge(21 * GIB, busy=True).interrupt
    assert not supervisor.judge(21 * GIB, busy=False).interrupt
    assert supervisor.judge(21 * GIB, busy=True).interrupt


def test_a_short_peak_is_forgiven(supervisor: Supervisor) -> None:
    for _ in range(5):
        assert not supervisor.judge(21 * GIB, busy=True).interrupt
        assert not supervisor.judge(10 * GIB, busy=True).interrupt


def test_without_a_cell_it_is_told_once(supervisor: Supervisor) -> None:
    verdicts = [supervisor.judge(21 * GIB, busy=False) for _ in range(5)]
    assert sum(verdict.notice is not None for verdict in verdicts) == 1
    assert not any(verdict.interrupt for verdict in verdicts)


def test_what_is_not_known_changes_nothing(supervisor: Supervisor) -> None:
    supervisor.judge(21 * GIB, busy=True)
    assert supervisor.judge(None, busy=True).notice is None
    assert supervisor.judge(21 * GIB, busy=True).interrupt


def test_exactly_the_share_is_allowed(supervisor: Supervisor) -> None:
    for _ in range(5):
        assert not supervisor.judge(20 * GIB, busy=True).interrupt


def test_children_and_what_left_for_another_session_belong_to_the_kernel() -> None:
    code = (
        "import subprocess, sys\n"
        "sleep = [sys.executable, '-c', 'input()']\n"
        "a = subprocess.Popen(sleep, stdin=subprocess.PIPE)\n"
        "b = subprocess.Popen(sleep, stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(a.pid, b.pid, flush=True)\n"
        "input()\n"
        "a.kill(), b.kill(), a.wait(), b.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as kernel:
        assert kernel.stdout is not None
        children = {int(pid) for pid in kernel.stdout.readline().split()}
        trees = process_trees([kernel.pid, 2**30])
        assert trees[kernel.pid] == {kernel.pid, *children}
        assert trees[2**30] == {2**30}
        kernel.communicate("\n", timeout=30)
