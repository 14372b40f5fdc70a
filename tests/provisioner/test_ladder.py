"""An unused share is warned about, goes back by itself, and comes back with a cell."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from managers import GIB, Kernels, active, controller, free, run, state
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.allocations import Allocation, State
from jupyter_gpu_share.kernels import _idle_rule
from jupyter_gpu_share.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_gpu")]


@pytest.fixture
def quick(one_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The policy of this process, with spans that a test can wait for."""
    policy = Runtime.instance().idle_policy
    policy.set_trait("idle_after", 0.2)
    policy.set_trait("rule", "fixed")
    policy.set_trait("timeout", 1.5)
    policy.set_trait("warn_before", 0.5)
    monkeypatch.setattr(_idle_rule, "_AGAIN", 0.3)
    return policy


WAITS = Config({"GpuShareProvisioner": {"queue_patience": 0.2}})


def row(manager: Any) -> Allocation:
    found = Runtime.instance().table.get(manager.kernel_id)
    assert found is not None
    return found


async def test_an_unused_share_goes_back_and_a_cell_brings_it_back(
    kernels: Kernels, quick: Any
) -> None:
    told: list[Allocation] = []
    Runtime.instance().table.listen(told.append)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = object(); n = id(x)")
    await eventually(lambda: state(manager) is State.RELEASED, "the share goes back")
    assert await free() == 80 * GIB
    steps = [(r.state, r.next.action if r.next else None) for r in told if r.state is not None]
    for step in [
        (State.IDLE, "warn"),
        (State.IDLE, "release"),
        (State.RELEASING, "release"),
        (State.RELEASED, None),
    ]:
        assert step in steps
    warned = next(r for r in told if r.next and r.next.action == "release")
    assert warned.kept.how == "in-place"
    assert "no background work" in warned.reason
    assert warned.reason.startswith("No cell since ")
    assert await run(client, "print(id(x) == n)") == "True"
    await active(manager)


async def test_a_cell_undoes_the_warning(kernels: Kernels, quick: Any) -> None:
    quick.set_trait("timeout", 3.0)
    quick.set_trait("warn_before", 2.5)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "x = 1")
    await eventually(lambda: (n := row(manager).next) and n.action == "release", "it is warned")
    cell = asyncio.ensure_future(run(client, "import time; time.sleep(4); print(x)"))
    await active(manager)
    assert row(manager).next is None
    assert await cell == "1"
    assert row(manager).share is not None


async def test_a_share_that_is_kept_stays(kernels: Kernels, quick: Any) -> None:
    manager = await kernels.start("1/2")
    until = datetime.now(timezone.utc) + timedelta(seconds=4)
    await Runtime.instance().keep(manager.kernel_id, until)
    await eventually(lambda: state(manager) is State.RELEASED, "the share goes back")
    assert datetime.now(timezone.utc) >= until


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import subprocess; p = subprocess.Popen(['sleep', '600'])", "sleep"),
        ("import asyncio; t = asyncio.ensure_future(asyncio.sleep(600))", "task"),
        (
            "import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()",
            "thread",
        ),
    ],
)
async def test_work_in_the_background_keeps_the_share(
    code: str, words: str, kernels: Kernels, quick: Any
) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, code)
    await eventually(lambda: "but the kernel works" in row(manager).reason, "it is noticed")
    assert words in row(manager).reason
    assert state(manager) is State.ACTIVE
    assert await free() == 40 * GIB


async def test_a_gpu_that_works_keeps_the_share(kernels: Kernels, quick: Any) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    # What a CUDA stream does when its cell has ended; here the simulated GPU says that it is busy.
    await run(
        client,
        "import time\nfrom gpu_share_kernel import simulated\n"
        "simulated._busy_until = time.time() + 600; simulated._publish()",
    )
    await eventually(lambda: "but the kernel works" in row(manager).reason, "it is noticed")
    assert "GPU use 100%" in row(manager).reason
    assert await free() == 40 * GIB


async def test_one_that_is_unused_makes_room_for_one_that_waits(
    kernels: Kernels, quick: Any
) -> None:
    quick.set_trait("rule", "demand")
    quick.set_trait("demand_after", 0.5)
    quick.set_trait("timeout", 600.0)
    first = await kernels.start("1/2")
    client = await kernels.client(first)
    await run(client, "x = 1")
    second = await kernels.start("1/2")
    await eventually(lambda: state(first) is State.IDLE, "nobody uses the first")
    await eventually(lambda: state(second) is State.IDLE, "nobody uses the second")
    assert await free() == 0
    third = await kernels.start("1/4")
    assert state(first) is State.RELEASED, "the one that was unused for longest"
    assert state(second) is not State.RELEASED
    assert state(third) in (State.ACTIVE, State.IDLE)
    assert await run(client, "print(x)") == "1"


async def test_two_that_are_unused_make_room_for_one_that_needs_both(
    kernels: Kernels, quick: Any
) -> None:
    quick.set_trait("rule", "demand")
    quick.set_trait("demand_after", 0.5)
    halves = [await kernels.start("1/2"), await kernels.start("1/2")]
    for half in halves:
        await run(await kernels.client(half), "x = 1")
    told: list[Allocation] = []
    Runtime.instance().table.listen(told.append)
    whole = await kernels.start("1")
    await eventually(lambda: state(whole) in (State.ACTIVE, State.IDLE), "it has its share")
    assert [state(half) for half in halves] == [State.RELEASED, State.RELEASED]
    for half in halves:
        mine = [row for row in told if row.kernel_id == half.kernel_id]
        warned = next(row.next for row in mine if row.next and row.next.action == "release")
        gone = next(row for row in mine if row.state is State.RELEASED)
        assert "somebody waits" in " ".join(row.reason.lower() for row in mine)
        assert warned.at <= datetime.now(timezone.utc)
        assert gone.share is None


async def test_nothing_is_taken_for_one_that_has_left(kernels: Kernels, quick: Any) -> None:
    quick.set_trait("rule", "demand")
    quick.set_trait("demand_after", 0.2)
    quick.set_trait("warn_before", 6.0)
    first = await kernels.start("3/4")
    client = await kernels.client(first)
    await run(client, "x = 1")
    second = await kernels.start("1/2", traits={"config": WAITS})
    await eventually(
        lambda: (n := row(first).next) and n.action in ("warn", "release"), "the end is told"
    )
    await second.shutdown_kernel(now=True)
    await eventually(lambda: row(first).next is None, "and taken back")
    assert state(first) is State.IDLE
    assert "somebody waits" not in row(first).reason.lower() or "when somebody" in row(first).reason


async def test_what_cannot_be_kept_keeps_the_share_unless_the_administrator_says_otherwise(
    kernels: Kernels, quick: Any
) -> None:
    quick.set_trait("in_place", False)
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "g = (n for n in range(3))")
    await eventually(lambda: "would lose generator `g`" in row(manager).reason, "it is told")
    assert row(manager).kept.lost == ("generator `g`",)
    assert row(manager).share is not None
    quick.set_trait("lose_variables", True)
    await eventually(lambda: state(manager) is State.RELEASED, "the share goes back")


async def test_a_kernel_is_ended_long_after_its_share_went_back(
    kernels: Kernels, quick: Any
) -> None:
    quick.set_trait("cull_after", 1.0)
    ended: list[str] = []
    Runtime.instance().end_kernel = ended.append
    first, second = await kernels.start("1/4"), await kernels.start("1/4")
    await eventually(lambda: state(first) is State.RELEASED, "the share goes back")
    await eventually(lambda: (n := row(first).next) and n.action == "cull", "the end is told")
    client = await kernels.client(second)
    await eventually(lambda: first.kernel_id in ended, "the kernel is ended")
    await run(client, "1")
    assert ended.count(first.kernel_id) == 1


async def test_work_that_has_ended_lets_the_share_go(kernels: Kernels, quick: Any) -> None:
    manager = await kernels.start("1/2")
    client = await kernels.client(manager)
    await run(client, "import subprocess; p = subprocess.Popen(['sleep', '600'])")
    await eventually(lambda: "but the kernel works" in row(manager).reason, "it is noticed")
    pid = int(await run(client, "print(p.pid)"))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: state(manager) is State.RELEASED, "the share goes back")


async def test_a_kernel_of_size_0_is_left_alone(kernels: Kernels, quick: Any) -> None:
    manager = await kernels.start("0")
    client = await kernels.client(manager)
    await run(client, "x = 1")
    await eventually(lambda: state(manager) is State.IDLE, "nobody uses it")
    assert row(manager).next is None
    assert controller(manager).answers
