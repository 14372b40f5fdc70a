"""A kernel's objects through a broker: every wait is until the row says so, whatever was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from fake_cluster_broker import FakeClusterBroker
from server_processes import KEY, Process
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Share
from jupyter_gpu_share.engines.base import Connection, Starting, Waiting
from jupyter_gpu_share.engines.kubernetes._link import Owned
from jupyter_gpu_share.engines.kubernetes._remote_objects import RemoteObjects
from jupyter_gpu_share.engines.kubernetes._row import Row
from jupyter_gpu_share.errors import EngineError, KernelStartError, NoGpuError
from jupyter_gpu_share.size import Size

Make = Callable[..., Process]
#: A start that goes on, and what it has told so far.
Begun: TypeAlias = tuple["asyncio.Task[Connection]", list[Waiting | Starting]]


async def soon(work: Any) -> Any:
    """What comes of something that is about to end."""
    return await asyncio.wait_for(work, PATIENCE)


def begun(objects: RemoteObjects) -> Begun:
    told: list[Waiting | Starting] = []
    return asyncio.create_task(objects.start(told.append)), told


async def running(process: Process, *args: Any, **plan: Any) -> RemoteObjects:
    objects = process.kernel(*args, **plan)
    await soon(begun(objects)[0])
    return objects


async def waiting(broker: FakeClusterBroker, objects: RemoteObjects) -> Begun:
    """A start for which there is no room, when it was told that it waits."""
    broker.set_room(0)
    task, told = begun(objects)
    await eventually(lambda: told, "it waits")
    return task, told


async def released(process: Process) -> RemoteObjects:
    """A kernel that runs, and has given its share back."""
    objects = await running(process)
    await soon(objects.give_back())
    return objects


async def taking(broker: FakeClusterBroker, objects: RemoteObjects) -> asyncio.Task[Share]:
    """A kernel takes its share again, for which there is no room: it waits for it."""
    broker.set_room(0)
    task = asyncio.create_task(objects.take_back(lambda news: None))
    await until_taking(broker)
    return task


async def until_taking(broker: FakeClusterBroker) -> None:
    await eventually(lambda: broker.kernels["k"].state == "taking", "it waits")


async def test_a_kernel_starts_and_ends(broker: FakeClusterBroker, process: Make) -> None:
    objects = process().kernel(path="a/n.ipynb", flags=("-Xutf8",), hash_seed="7")
    task, _ = begun(objects)
    connection = await soon(task)
    assert (connection.ip, connection.key) == ("127.0.0.1", KEY)
    sent = dict(broker.bodies)["PUT /v1/shares/k"]
    assert sent["info"] == {"kernel_name": "python3", "path": "a/n.ipynb"}
    assert sent["pod"]["keys"]["curve_publickey"] == connection.curve_publickey
    assert sent["pod"]["flags"] == ["-Xutf8"]
    assert sent["pod"]["hash_seed"] == "7"
    assert set(sent["pod"]) == {"language", "flags", "hash_seed", "keys"}, "no command, no environ"
    assert objects.there
    assert objects.share is not None
    assert objects.share.memory_bytes == 40 * 2**30
    assert objects.detachable
    assert await objects.last_words(3) == "the last 3 lines"
    await objects.note_path("b.ipynb")
    assert broker.kernels["k"].path == "b.ipynb"
    await soon(objects.delete())
    assert (broker.kernels, objects.made) == ({}, False)
    assert (await soon(objects.ended())).code == -9


async def test_one_that_waits_is_told_why_and_gets_its_turn(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = process().kernel()
    task, told = await waiting(broker, objects)
    first = told[0]
    assert isinstance(first, Waiting)
    assert (first.reason, first.queue.of) == ("No GPU has room.", 2)
    broker.set_room(1)
    await soon(task)
    assert len(broker.pods) == 1


async def test_who_gives_up_waiting_leaves_nothing(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = process().kernel()
    task, _ = await waiting(broker, objects)
    task.cancel()
    await asyncio.wait({task})
    await soon(objects.delete())
    assert broker.kernels == {}


@pytest.mark.parametrize(
    ("failed", "error"),
    [("no-gpu", NoGpuError), ("start", KernelStartError), ("engine", EngineError)],
)
async def test_why_a_start_fails_is_told(
    broker: FakeClusterBroker, process: Make, failed: str, error: type[Exception]
) -> None:
    objects = process().kernel()
    task, _ = await waiting(broker, objects)
    broker.set("k", state="failed", failed={"kind": failed, "detail": "For a reason."})
    with pytest.raises(error, match=r"For a reason\."):
        await soon(task)
    assert len(broker.pods) == 1, "that is no reason to try it again"


async def test_a_limit_refuses_a_start_in_words(broker: FakeClusterBroker, process: Make) -> None:
    broker.refused = "You hold 1 GPU of 1."
    with pytest.raises(EngineError, match="You hold 1 GPU of 1"):
        await soon(process().kernel().start(lambda news: None))


@pytest.mark.parametrize("when", ["before", "after", "503", "429"])
async def test_a_lost_answer_makes_no_second_pod(
    broker: FakeClusterBroker, process: Make, when: str
) -> None:
    broker.lose("PUT", when, times=5)
    objects = process().kernel()
    task, told = begun(objects)
    await soon(task)
    assert list(broker.pods.values()) == [1]
    assert list(broker.pods) == [objects.attempt]
    assert told, "it is said that it waits for the broker"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["release", "take", "change", "PATCH", "DELETE", "log"])
async def test_every_call_may_lose_its_answer(
    broker: FakeClusterBroker, process: Make, when: str, call: str
) -> None:
    broker.lose(call, when, times=3)
    objects = await running(process())
    await soon(objects.give_back())
    assert await soon(objects.settled(PATIENCE))
    assert broker.kernels["k"].state == "released"
    assert objects.lent
    share = await soon(objects.take_back(lambda news: None))
    assert share.memory_bytes == 40 * 2**30
    assert not objects.lent
    assert (await soon(objects.change(Size.parse("1")))).memory_bytes == 80 * 2**30
    assert broker.kernels["k"].size == "1"
    await soon(objects.note_path("c.ipynb"))
    await soon(objects.settled())
    assert broker.kernels["k"].path == "c.ipynb"
    await soon(objects.delete())
    await soon(objects.settled())
    assert broker.kernels == {}
    assert list(broker.pods.values()) == [1]


async def test_the_broker_may_be_away_when_a_kernel_starts(
    broker: FakeClusterBroker, process: Make
) -> None:
    one = process()
    await broker.stop()
    objects = one.kernel()
    task, told = begun(objects)
    await eventually(lambda: told, "it waits in words")
    first = told[0]
    assert isinstance(first, Waiting)
    assert "The broker of this cluster does not answer" in first.reason
    assert "It is tried again" in first.reason
    await broker.start()
    await soon(task)


async def test_a_kernel_runs_on_while_the_broker_is_away_and_a_stop_is_owed(
    broker: FakeClusterBroker, process: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._writes.PATIENCE", 0.1)
    objects = await running(process())
    await broker.stop()
    assert objects.there
    await soon(objects.delete())
    assert objects.made
    assert objects.unanswered
    await broker.start()
    await eventually(lambda: not broker.kernels, "the stop is done")
    assert await soon(objects.settled(PATIENCE))
    assert not objects.made


async def test_a_share_is_given_back_though_the_broker_is_away(
    broker: FakeClusterBroker, process: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._writes.PATIENCE", 0.1)
    objects = await running(process())
    await broker.stop()
    await soon(objects.give_back())
    assert objects.lent
    assert objects.unanswered, "it goes on, and is not turned back"
    await broker.start()
    assert await soon(objects.settled(PATIENCE))
    assert broker.kernels["k"].state == "released"


async def test_one_that_cannot_be_given_back_is_held(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await running(process())
    broker.set("k", detachable=False)
    await eventually(lambda: not objects.detachable, "it is told")
    for work in (objects.give_back(), objects.take_back(lambda news: None)):
        with pytest.raises(EngineError, match="part of its pod"):
            await soon(work)
    assert not objects.lent
    assert broker.kernels["k"].state == "ready"


async def test_an_answer_that_comes_late_changes_nothing(
    broker: FakeClusterBroker, process: Make
) -> None:
    """Its row may be older than what was told meanwhile."""
    one = process()
    objects = await running(one)
    late = Row.read({**broker.kernels["k"].row(), "state": "waiting", "address": None})
    assert one.followed.answered(late).state == "ready"
    assert objects._state == "ready"
    another = Row.read({**broker.kernels["k"].row(), "attempt": "f" * 32})
    assert one.followed.answered(another) == another


async def test_what_runs_is_the_same_after_a_restart_of_the_broker(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await running(process())
    await broker.restart()
    await eventually(lambda: objects._resets, "all rows were told anew")
    assert objects.there
    await soon(objects.give_back())
    assert len(broker.pods) == 1


async def test_a_start_that_a_new_broker_does_not_know_is_asked_for_again(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = process().kernel()
    task, _ = await waiting(broker, objects)
    await broker.restart(forget=lambda kernel: True)
    broker.set_room(1)
    await soon(task)
    assert list(broker.kernels) == ["k"]


async def test_a_start_whose_keys_are_lost_is_another_attempt(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = process().kernel()
    task, _ = await waiting(broker, objects)
    first = objects.attempt
    broker.room = 1
    broker.set("k", state="failed", failed={"kind": "keys", "detail": "The keys are lost."})
    await soon(task)
    assert objects.attempt != first
    assert broker.kernels["k"].attempt == objects.attempt
    assert set(broker.pods.values()) == {1}


async def test_one_that_waits_for_its_share_waits_on_after_a_restart(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await released(process())
    task = await taking(broker, objects)
    await broker.restart()
    await until_taking(broker)
    broker.set_room(1)
    assert (await soon(task)).memory_bytes == 40 * 2**30


async def test_one_whose_waiting_was_forgotten_asks_again(
    broker: FakeClusterBroker, process: Make
) -> None:
    """The broker gives up waiting where nothing is heard of this process for a while."""
    objects = await released(process())
    task = await taking(broker, objects)
    broker.set("k", state="released")
    await until_taking(broker)
    broker.set_room(1)
    assert (await soon(task)).memory_bytes == 40 * 2**30


async def test_who_gives_up_waiting_for_the_share_holds_none(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await released(process())
    task = await taking(broker, objects)
    task.cancel()
    await asyncio.wait({task})
    assert broker.kernels["k"].state == "released"
    assert objects.lent
    broker.set_room(1)
    assert await soon(objects.take_back(lambda news: None))


async def test_a_share_that_cannot_be_had_again_is_told_and_can_be_tried_again(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await released(process())
    for _ in range(2):
        task = await taking(broker, objects)
        broker.set("k", state="released", failed={"kind": "engine", "detail": "Not now."})
        with pytest.raises(EngineError, match="Not now"):
            await soon(task)
        assert objects.there
    broker.set_room(1)
    assert await soon(objects.take_back(lambda news: None))


async def test_a_change_that_is_refused_changes_nothing(
    broker: FakeClusterBroker, process: Make
) -> None:
    one = process()
    objects, _ = await running(one), await running(one, "other")
    assert await soon(objects.planned(Size.parse("1"))) is None
    with pytest.raises(EngineError, match="no room"):
        await soon(objects.change(Size.parse("1")))
    planned = await soon(objects.planned(Size.parse("1/4")))
    assert planned is not None
    share, beside = planned
    assert (share.memory_bytes, beside) == (20 * 2**30, True)
    assert broker.kernels["k"].size == "1/2"


async def test_a_change_that_is_never_answered_is_turned_back(
    broker: FakeClusterBroker, process: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._remote_objects._CHANGES", 0.3)
    objects = await running(process())
    broker.lose("change", "after", times=10_000)
    with pytest.raises(EngineError):
        await soon(objects.change(Size.parse("1")))
    broker.faults.clear()
    await soon(objects.settled())
    assert broker.kernels["k"].size == "1/2"


async def test_the_end_of_a_pod_is_told(broker: FakeClusterBroker, process: Make) -> None:
    objects = await running(process())
    broker.set("k", state="ended", ended={"code": 137, "reason": "It had no memory left."})
    ended = await soon(objects.ended())
    assert (ended.code, ended.reason) == (137, "It had no memory left.")
    assert not objects.there


async def test_a_pod_that_is_gone_has_ended(broker: FakeClusterBroker, process: Make) -> None:
    objects = await running(process())
    await broker.restart(forget=lambda kernel: True)
    assert "no pod" in (await soon(objects.ended())).reason


async def test_rows_of_before_an_answer_end_nothing(
    broker: FakeClusterBroker, process: Make
) -> None:
    one = process()
    objects = await running(one)
    one.followed._reset([])  # as if it had been told before the kernel was asked for
    await eventually(lambda: objects._looking and objects._looking.done(), "it is looked for")
    assert objects.there
    assert not objects._ended.done()


async def test_a_removal_is_told_to_who_listens(broker: FakeClusterBroker, process: Make) -> None:
    objects = await running(process())
    left: list[bool] = []
    objects.on_leave = lambda: left.append(True)
    listening = asyncio.create_task(objects.removed())
    await asyncio.sleep(0)
    broker.set("k", removal={"reason": "The node is emptied.", "seconds": 30})
    removal = await soon(listening)
    assert removal.reason == "The node is emptied."
    assert not objects.there
    assert not left
    objects.let_go()
    assert left == [True]
    await eventually(lambda: "POST /v1/shares/k/let-go" in broker.asked, "the broker is told")
    found = objects.removal
    assert found is not None
    assert 0 < found.seconds <= 30


async def test_where_nobody_listens_to_a_removal_it_leaves_at_once(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await running(process())
    left: list[bool] = []
    objects.on_leave = lambda: left.append(True)
    objects.leaving(20.0)
    await eventually(lambda: left, "the agent is told")
    assert left == [True]


async def test_a_kernel_of_an_earlier_process_is_taken_over(
    broker: FakeClusterBroker, process: Make
) -> None:
    first = process()
    before = await running(first)
    await soon(before.give_back())
    await first.followed.close()
    later = process()
    objects = later.kernel()
    broker.lose("adopt", "after", times=2)
    broker.lose("connection", "before")
    connection = await soon(objects.adopt(first.http.instance, lambda news: None))
    assert connection.key == KEY
    await soon(objects.settle(lambda news: None))
    assert objects.there
    assert not objects.lent
    assert broker.kernels["k"].instance == later.http.instance
    assert len(broker.pods) == 1


async def test_a_kernel_of_another_process_that_lives_is_not(
    broker: FakeClusterBroker, process: Make
) -> None:
    first = process()
    await running(first)
    broker.alive.add(first.http.instance)
    objects = process().kernel()
    with pytest.raises(Owned):
        await soon(objects.adopt(first.http.instance, lambda news: None))
    await soon(objects.delete())
    assert list(broker.kernels) == ["k"], "it is not ours to end"


async def test_one_that_was_taken_over_is_lost_to_the_process_before(
    broker: FakeClusterBroker, process: Make
) -> None:
    objects = await running(process())
    broker.set("k", lost=True)
    assert "Another Jupyter server" in (await soon(objects.ended())).reason
    assert objects.lost
    assert not objects.there


async def test_what_nobody_knows_of_is_told(broker: FakeClusterBroker, process: Make) -> None:
    one = process()
    body = {
        "attempt": "f" * 32,
        "size": "1/4",
        "info": {"kernel_name": "python3", "path": None},
        "pod": {"keys": {}},
    }
    await one.http.ask("PUT", "/v1/shares/stray", body)
    await eventually(lambda: one.unknown, "it is told")
    await one.end_unknown()
    assert broker.kernels == {}


async def test_no_key_is_shown(broker: FakeClusterBroker, process: Make) -> None:
    objects = process().kernel()
    keys = objects._plan.keys
    assert keys is not None
    await soon(begun(objects)[0])
    assert objects._plan.keys is None, "they are in the Secret, and in the link's connection"
    assert KEY.decode() not in repr(vars(objects))
    assert keys.curve_secretkey is not None
    assert keys.curve_secretkey not in repr(keys)
