"""All users' kernels over HTTP, with a fake cluster and a fake Hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from fake_objects import KEY
from homes import BROKER, CURVE, FakeHome, User, fake_home, held
from waiting import eventually

from jupyter_gpu_share.broker.cluster.owners import asked_of
from jupyter_gpu_share.broker.cluster.presence import Process
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.engines.base import Connection, Exit
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys
from jupyter_gpu_share.engines.kubernetes._parked import Parked
from jupyter_gpu_share.size import Size


@pytest.fixture
def bob(home: FakeHome) -> User:
    return home.user("bob")


# -- starts --------------------------------------------------------------------------------------


async def test_a_start_is_told_by_rows_and_keys_stay_nowhere(home: FakeHome, ann: User) -> None:
    home.cluster.room.clear()
    plan = ann.plan()
    status, row = await ann.ask("PUT", "/v1/shares/k", plan)
    assert status == 201
    assert row["state"] == "waiting" and row["attempt"] == plan["attempt"]
    assert row["address"] is None and row["share"] is None
    async with ann.events(instance=True) as heard:
        assert (await anext(heard))[1:] == ("reset", {"shares": [await ann.row()]})
        home.cluster.room.set()
        found = [data["row"] async for _, _, data in _some(heard, 2)]
    assert [each["state"] for each in found] == ["starting", "ready"]
    assert found[-1]["address"] == "10.0.0.1"
    assert found[-1]["held_by_other"] is False and "alive" not in found[-1]
    (kernel,) = home.registry
    assert kernel.plan.keys is None and kernel.objects.plan.keys is None  # type: ignore[attr-defined]
    (pod,) = held(home)
    notes = dict(pod.owner.notes)
    asked = datetime.fromisoformat(notes.pop("gpu-share.jupyter.org/asked").replace("Z", "+00:00"))
    assert abs(asked - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert notes == {
        "hub.jupyter.org/username": "ann",
        "hub.jupyter.org/servername": "",
        "gpu-share.jupyter.org/start": plan["attempt"],
        "gpu-share.jupyter.org/groups": "[]",
    }
    assert KEY not in json.dumps(await ann.ok("GET", "/v1/shares"))


async def _some(heard: AsyncIterator[Any], number: int) -> AsyncIterator[Any]:
    for _ in range(number):
        yield await anext(heard)


async def test_the_same_attempt_is_the_same_start(home: FakeHome, ann: User) -> None:
    home.cluster.room.clear()
    plan = ann.plan()
    answers = await asyncio.gather(*(ann.ask("PUT", "/v1/shares/k", plan) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 201]
    assert len(home.cluster.created) == 1
    home.cluster.room.set()
    await ann.until("k", "ready")
    assert (await ann.ask("PUT", "/v1/shares/k", plan))[0] == 200
    assert len(home.cluster.created) == 1


async def test_a_new_attempt_replaces_the_last_one(home: FakeHome, ann: User) -> None:
    first = await ann.start()
    second = await ann.start()
    assert first["name"] != second["name"] and first["attempt"] != second["attempt"]
    assert [pod.name for pod in held(home)] == [second["name"]]
    gone = await ann.ok("DELETE", f"/v1/shares/k?attempt={first['attempt']}")
    assert gone == {"gone": True}
    assert (await ann.row() or {})["attempt"] == second["attempt"], "that was another attempt"
    assert list(home.rules.held) == [("ann", "", "k")]


async def test_ending_is_idempotent_and_goes_on_by_itself(home: FakeHome, ann: User) -> None:
    row = await ann.start()
    home.cluster.answers.clear()
    path = f"/v1/shares/k?attempt={row['attempt']}"
    asked = asyncio.create_task(ann.ask("DELETE", path))
    await eventually(lambda: not home.registry.rows("ann", ""), "the row is gone")
    assert held(home), "the cluster has not answered"
    home.cluster.answers.set()
    assert await asked == (200, {"gone": True})
    assert await ann.ok("DELETE", path) == {"gone": True}
    assert not held(home) and not home.rules.held


async def test_a_start_that_fails_says_why_and_leaves_nothing(home: FakeHome, ann: User) -> None:
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/k", ann.plan())
    (pod,) = held(home)
    pod.end(Exit(1, "The image is not there."))
    row = await ann.until("k", "failed")
    assert row["failed"] == {
        "kind": "engine",
        "detail": "The kernel could not start. The image is not there.",
    }
    await eventually(lambda: not held(home), "the pod is deleted")
    assert not home.rules.held
    await ann.ok("DELETE", f"/v1/shares/k?attempt={row['attempt']}")
    assert await ann.row() is None


async def test_a_kernel_that_ends_is_told(home: FakeHome, ann: User) -> None:
    await ann.start()
    (pod,) = held(home)
    pod.end(Exit(137, "It used too much memory."))
    row = await ann.until("k", "ended")
    assert row["ended"] == {"code": 137, "reason": "It used too much memory."}


async def test_what_the_administrator_does_not_allow_is_refused(home: FakeHome, ann: User) -> None:
    home.rules.most = 1
    await ann.start("a")
    assert await ann.refused("PUT", "/v1/shares/b", ann.plan()) == (409, "You may hold 1 shares.")
    assert len(home.cluster.created) == 1
    await ann.start("a")  # in its own place it counts once


async def test_two_at_once_do_not_pass_a_limit(home: FakeHome, ann: User) -> None:
    home.rules.most = 3
    asked = [ann.ask("PUT", f"/v1/shares/k{n}", ann.plan()) for n in range(12)]
    statuses = [status for status, _ in await asyncio.gather(*asked)]
    assert statuses.count(201) == 3 and statuses.count(409) == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attempt": "x"}, "attempt"),
        ({"size": "nonsense"}, "nonsense"),
        ({"size": 1}, "size"),
        ({"info": {"kernel_name": "x", "user": "bob"}}, "user"),
        ({"info": {}}, "kernel_name"),
        ({"pod": None}, "pod"),
        ({"image": "evil"}, "image"),
        ({"pod": {"command": ["sh"]}}, "command"),
    ],
)
async def test_malformed_starts(ann: User, change: dict[str, Any], words: str) -> None:
    status, detail = await ann.refused("PUT", "/v1/shares/k", {**ann.plan(), **change})
    assert status == 400 and words in detail


@pytest.mark.parametrize("lacking", ["key", "curve_publickey", "curve_secretkey"])
async def test_no_kernel_without_keys(home: FakeHome, ann: User, lacking: str) -> None:
    """Without them whoever reaches the pod could have it run anything."""
    plan = ann.plan()
    plan["pod"]["keys"][lacking] = ""
    assert (await ann.refused("PUT", "/v1/shares/k", plan))[0] == 400
    del plan["pod"]["keys"][lacking]
    assert (await ann.refused("PUT", "/v1/shares/k", plan))[0] == 400
    plan["pod"]["keys"] = {"key": KEY}
    assert (await ann.refused("PUT", "/v1/shares/k", plan))[0] == 400, "the wire is encrypted"
    assert not home.cluster.created
    home.settings.encrypt = False
    await ann.ok("PUT", "/v1/shares/k", plan)


# -- shares of living kernels --------------------------------------------------------------------


async def test_a_share_goes_and_comes_back(home: FakeHome, ann: User) -> None:
    attempt = {"attempt": (await ann.start())["attempt"]}
    for _ in range(2):
        status, row = await ann.ask("POST", "/v1/shares/k/release", attempt)
        assert (status, row["state"]) == (202, "released")
    assert home.rules.lent == {("ann", "", "k")}
    home.cluster.room.clear()
    for _ in range(2):
        status, row = await ann.ask("POST", "/v1/shares/k/take", attempt)
        assert (status, row["state"]) == (202, "taking")
    row = await ann.ok("POST", "/v1/shares/k/withdraw", attempt)
    assert row["state"] == "released" and row["queue"] is None
    await ann.ok("POST", "/v1/shares/k/take", attempt)
    home.cluster.room.set()
    await ann.until("k", "ready")
    assert not home.rules.lent


async def test_nobody_passes_their_turn(home: FakeHome, ann: User) -> None:
    """What starts, or takes its share again, waits for its turn before a scheduler sees it."""
    home.order.active = True
    up = {"attempt": (await ann.start("up"))["attempt"]}
    await ann.ok("POST", "/v1/shares/up/release", up)
    home.order.gate.clear()
    row = await ann.ok("PUT", "/v1/shares/new", ann.plan())
    (pod,) = [pod for pod in held(home) if pod.plan.kernel_id == "new"]
    assert pod.held_back and not pod.up
    await ann.ok("POST", "/v1/shares/up/take", up)
    row = await ann.until("new", "waiting")
    assert (row["reason"], row["queue"]) == ("Not yet.", {"position": 1, "of": 2})
    status, _ = await ann.refused("POST", "/v1/shares/up/release", up)
    assert status == 409, "it does not wait for the end of the wait"
    assert next(pod for pod in held(home) if pod.plan.kernel_id == "up").lent
    await ann.ok("DELETE", f"/v1/shares/new?attempt={row['attempt']}")
    home.order.gate.set()
    await ann.until("up", "ready")


async def test_a_share_that_stays_is_told(home: FakeHome, ann: User) -> None:
    attempt = {"attempt": (await ann.start())["attempt"]}
    home.cluster.refuses_give_back = True
    refusal = await ann.refused("POST", "/v1/shares/k/release", attempt)
    assert refusal == (409, "The cluster refuses that.")
    assert (await ann.row() or {})["state"] == "ready" and not home.rules.lent
    home.cluster.detachable = False
    status, detail = await ann.refused("POST", "/v1/shares/k/release", attempt)
    assert status == 409 and "part of its pod" in detail


async def test_taking_is_asked_of_the_limits(home: FakeHome, ann: User, bob: User) -> None:
    attempt = {"attempt": (await ann.start())["attempt"]}
    await ann.ok("POST", "/v1/shares/k/release", attempt)
    home.rules.most = 1
    await bob.start("b")
    assert (await ann.refused("POST", "/v1/shares/k/take", attempt))[0] == 409
    assert (await ann.row() or {})["state"] == "released"


async def test_another_size(home: FakeHome, ann: User) -> None:
    attempt = (await ann.start())["attempt"]
    body = {"attempt": attempt, "size": "1/2"}
    planned = await ann.ok("POST", "/v1/shares/k/change", {**body, "dry_run": True})
    assert planned["change"]["beside"] is True
    assert (await ann.row() or {})["size"] == "1/4"
    await ann.ok("POST", "/v1/shares/k/change", body)
    assert (await ann.row() or {})["size"] == "1/2"
    assert str(home.rules.held[next(iter(home.rules.held))]) == "1/2"


async def test_small_words(home: FakeHome, ann: User) -> None:
    attempt = (await ann.start())["attempt"]
    row = await ann.ok("PATCH", "/v1/shares/k", {"attempt": attempt, "path": "b.ipynb"})
    assert row["path"] == "b.ipynb"
    assert await ann.ok("GET", "/v1/shares/k/log?lines=3") == {"text": "last words"}
    found = await ann.ok("GET", "/v1/shares/k/connection")
    assert (found["key"], found["ip"]) == (KEY, "10.0.0.1")
    row = await ann.ok("POST", "/v1/shares/k/leaving", {"attempt": attempt, "grace": 30})
    await eventually(lambda: home.registry.rows("ann", "")[0]["removal"], "it is told")
    await ann.ok("POST", "/v1/shares/k/let-go", {"attempt": attempt})
    details = await ann.ok("GET", "/v1/details")
    assert [(each["kernel_id"], each["state"], each["user"]) for each in details] == [
        ("k", "active", "ann")
    ]
    machine = await ann.ok("GET", "/v1/machine")
    you = {"user": "ann", "server": "", "groups": [], "administrator": False, "limits": []}
    assert machine["you"] == you
    assert await ann.ok("POST", "/v1/fits", {"kernel_id": None, "sizes": ["1", "0"]}) == [None] * 2
    assert await ann.ok("POST", "/v1/rounding", {"size": "1/4"}) == {"note": "1/4 is what it is."}


# -- attacks -------------------------------------------------------------------------------------


async def test_a_refusal_has_its_sentences_beside_the_text(home: FakeHome, ann: User) -> None:
    status, problem = await ann.ask("GET", "/v1/shares/none/connection")
    assert (status, problem["detail"]) == (404, "Your server has no such kernel.")
    assert [each["code"] for each in problem["detail_sentences"]] == ["has-no-such-kernel"]
    _, problem = await ann.ask("GET", "/v1/shares/none/log?lines=none")
    assert "detail_sentences" not in problem, "it has no code"


async def test_nobody_reaches_the_kernel_of_another(home: FakeHome, ann: User) -> None:
    """Of another user, of another server, of names that look alike; not even by guessing all."""
    row = await ann.start()
    (pod,) = held(home)
    others = [home.user("bob"), home.user("ann", "lab"), home.user("ann-"), home.user("ann/")]
    for other in others:
        other.instance = ann.instance
        attempt = {"attempt": row["attempt"]}
        assert await other.ok("GET", "/v1/shares") == []
        for method, path, body in (
            ("POST", "release", attempt),
            ("POST", "take", attempt),
            ("POST", "withdraw", attempt),
            ("POST", "settle", attempt),
            ("POST", "let-go", attempt),
            ("POST", "adopt", {**attempt, "before": ann.instance}),
            ("POST", "change", {**attempt, "size": "1"}),
            ("POST", "leaving", {**attempt, "grace": 1}),
            ("GET", "connection", None),
            ("GET", "log", None),
        ):
            status, detail = await other.refused(method, f"/v1/shares/k/{path}", body)
            assert (status, detail) == (404, "Your server has no such kernel."), path
        assert (await other.refused("PATCH", "/v1/shares/k", {**attempt, "path": "x"}))[0] == 404
        await other.ok("DELETE", f"/v1/shares/k?attempt={row['attempt']}")
        await other.ok("DELETE", "/v1/servers/self")
        async with other.events() as heard:
            assert (await anext(heard))[1:] == ("reset", {"shares": []})
        details = await other.ok("GET", "/v1/details")
        assert len(details) == (other.name == "ann")
    assert held(home) == [pod] and not pod.lent
    assert (await ann.row() or {})["state"] == "ready"


async def test_events_of_others_are_not_heard(home: FakeHome, ann: User, bob: User) -> None:
    async with bob.events() as heard:
        await anext(heard)
        await ann.start()
        await bob.start("b")
        told = [data async for _, _, data in _some(heard, 2)]
    assert {row["row"]["kernel_id"] for row in told} == {"b"}


@pytest.mark.parametrize("instance", [True, False])
async def test_nobody_opens_streams_without_end(ann: User, instance: bool) -> None:
    async with AsyncExitStack() as streams:
        for _ in range(8):
            heard = await streams.enter_async_context(ann.events(instance=instance))
            assert (await anext(heard))[1] == "reset"
        refused = await streams.enter_async_context(ann.events(instance=instance))
        assert [each async for each in refused] == []


async def test_another_process_of_the_server_has_to_wait_for_its_end(ann: User) -> None:
    row = await ann.start()
    second = ann.again()
    attempt = {"attempt": row["attempt"]}
    assert (await second.row() or {})["held_by_other"] is True
    assert (await second.refused("POST", "/v1/shares/k/release", attempt))[0] == 409
    assert (await second.refused("PUT", "/v1/shares/k", second.plan()))[0] == 409
    assert (await second.refused("DELETE", f"/v1/shares/k?attempt={row['attempt']}"))[0] == 409
    adopt = {"attempt": uuid4().hex, "before": ann.instance}
    assert (await second.refused("POST", "/v1/shares/k/adopt", adopt))[0] == 409
    assert (await ann.row() or {})["held_by_other"] is False


async def test_a_token_of_no_server_looks_and_holds_nothing(home: FakeHome, ann: User) -> None:
    await ann.start()
    personal = home.user("ann", None)
    assert [row["kernel_id"] for row in await personal.ok("GET", "/v1/details")] == ["k"]
    for method, path, body in (
        ("GET", "/v1/shares", None),
        ("PUT", "/v1/shares/x", personal.plan()),
        ("GET", "/v1/shares/k/connection", None),
        ("DELETE", "/v1/shares/k?attempt=" + "0" * 32, None),
        ("PUT", "/v1/idle", {"kernels": {}}),
        ("DELETE", "/v1/servers/self", None),
        ("GET", "/v1/events", None),
    ):
        status, detail = await personal.refused(method, path, body)
        assert status == 403 and "no server" in detail, path


async def test_what_changes_something_needs_a_process(ann: User) -> None:
    row = await ann.start()
    for wrong in ("", "x", "A" * 32, "0" * 33):
        ann.instance = wrong
        path = f"/v1/shares/k?attempt={row['attempt']}"
        status, _ = await ann.refused("DELETE", path)
        assert status == 400


async def test_while_the_hub_is_away_nothing_new_begins(home: FakeHome, ann: User) -> None:
    row = await ann.start()
    plan = ann.plan()
    await ann.ok("PUT", "/v1/shares/second", plan)
    home.hub.trouble, home.clock.now = 0, home.clock.now + 30
    status, detail = await ann.refused("PUT", "/v1/shares/third", ann.plan())
    assert status == 503 and "nothing new" in detail
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    await ann.ok("POST", "/v1/shares/k/take", {"attempt": row["attempt"]})
    assert (await ann.ask("PUT", "/v1/shares/second", plan))[0] == 200, "that start is known"


# -- the end of a process ------------------------------------------------------------------------


async def test_a_process_that_ends_leaves_no_share_held(home: FakeHome, ann: User) -> None:
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/waiting", ann.plan())
    home.cluster.room.set()
    await ann.until("waiting", "ready")
    await ann.start("busy")
    kept = await ann.start("kept")
    vacated = await ann.start("vacated")
    ended = await ann.start("over")
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/late", ann.plan())
    await ann.ok("POST", "/v1/shares/kept/release", {"attempt": kept["attempt"]})
    next(p for p in held(home) if p.name == ended["name"]).end(Exit(1, "over"))
    await ann.until("over", "ended")
    idle = {"idle_seconds": 5, "keep_seconds": None, "vacated": True}
    answer = await ann.ok("PUT", "/v1/idle", {"kernels": {"vacated": idle}})
    assert answer == {"wanted": {}, "taken": [], "waiting": False}
    assert await ann.ask("DELETE", "/v1/servers/self") == (202, {})
    next_one = ann.again()
    await eventually(
        lambda: sorted(pod.name for pod in held(home)) == sorted([kept["name"], vacated["name"]]),
        "only what holds no share is left",
    )
    rows = {row["kernel_id"]: row for row in await next_one.ok("GET", "/v1/shares")}
    assert {key: row["state"] for key, row in rows.items()} == {
        "waiting": "ended",
        "busy": "ended",
        "kept": "released",
        "vacated": "released",
    }
    assert not rows["kept"]["held_by_other"]
    assert rows["kept"]["lost_work"] == rows["vacated"]["lost_work"] == ""
    for lost in ("busy", "waiting"):
        assert "variables are gone" in rows[lost]["lost_work"]
        assert rows[lost]["path"] == "a.ipynb"
    assert set(home.rules.held) - home.rules.lent == set()
    graces = {pod.plan.kernel_id: pod.grace for pod in home.cluster.made}
    assert graces["busy"] == 8 and graces["late"] == 1
    await next_one.ok("DELETE", f"/v1/shares/busy?attempt={rows['busy']['attempt']}")
    assert await next_one.row("busy") is None


@pytest.mark.parametrize("why", ["", "A cell does not end."])
async def test_a_kernel_without_its_server_is_parked_or_ended(why: str) -> None:
    """By its agent, which the broker asks as the pod's owner; the next process takes it over."""
    asked = []

    async def park(connection: Connection, before: str) -> Parked:
        pod = held(home)[0]
        asked.append((connection.ip, before, pod.owner.instance, pod.lent))
        return Parked(not why, why)

    async with fake_home(parking=park) as home:
        user = home.user("ann")
        before = await user.start()
        home.gone(user)
        second = user.again()
        await second.until("k", "ended" if why else "released")
        assert asked == [("10.0.0.2", user.instance, BROKER, False)]
        row = await second.row("k")
        assert row is not None and not row["held_by_other"]
        if why:
            assert why in row["lost_work"] and "variables are gone" in row["lost_work"]
            await eventually(lambda: not held(home), "nothing is left of it")
            return
        assert row["lost_work"] == "" and held(home)[0].lent
        assert set(home.rules.held) - home.rules.lent == set()
        body = {"attempt": uuid4().hex, "before": row["instance"]}
        row = await second.ok("POST", "/v1/shares/k/adopt", body)
        assert row["name"] == before["name"]
        await second.ok("POST", "/v1/shares/k/settle", {"attempt": body["attempt"]})
        await second.until("k", "ready")


async def test_an_idle_share_is_never_taken_from_under_a_kernel(home: FakeHome, ann: User) -> None:
    """One that is on its GPU still has to end: somebody else gets the memory."""
    on_it, off_it = await ann.start("on"), await ann.start("off")
    idle = {"idle_seconds": 5, "keep_seconds": None, "vacated": True}
    await ann.ok("PUT", "/v1/idle", {"kernels": {"off": idle}})
    for row in (on_it, off_it):
        kernel = home.registry.get(Key("ann", "", row["kernel_id"]))
        assert kernel is not None
        await home.registry.give_back_by_rule(kernel)
    await eventually(lambda: [pod.name for pod in held(home)] == [off_it["name"]], "one is left")
    assert held(home)[0].lent
    row = await ann.row("on")
    assert row is not None and "did not leave its GPU" in row["lost_work"]


async def test_the_next_process_takes_over_what_was_kept(home: FakeHome, ann: User) -> None:
    before = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": before["attempt"]})
    home.gone(ann)
    second, attempt = ann.again(), uuid4().hex
    await eventually(
        lambda: not home.registry.rows("ann", "", second.instance)[0]["held_by_other"], "it is gone"
    )
    body = {"attempt": attempt, "before": ann.instance}
    for _ in range(2):
        row = await second.ok("POST", "/v1/shares/k/adopt", body)
        assert (row["state"], row["address"]) == ("starting", "10.0.0.2")
        assert row["name"] == before["name"] and row["instance"] == second.instance
    assert len(held(home)) == 1 and held(home)[0].owner.instance == second.instance
    await second.ok("POST", "/v1/shares/k/settle", {"attempt": attempt})
    row = await second.until("k", "ready")
    assert (row["share"] or {})["memory_bytes"] == 2**30
    third = ann.again()
    late = {"attempt": uuid4().hex, "before": ann.instance}
    assert (await third.refused("POST", "/v1/shares/k/adopt", late))[0] == 409
    await second.ok("POST", "/v1/shares/k/release", {"attempt": attempt})
    home.gone(second)
    await eventually(
        lambda: not home.registry.rows("ann", "", third.instance)[0]["held_by_other"], "it is gone"
    )
    status, detail = await third.refused("POST", "/v1/shares/k/adopt", late)
    assert status == 409 and "has taken this kernel over" in detail


async def test_a_kernel_that_is_taken_over_survives_who_took_it(home: FakeHome, ann: User) -> None:
    """The next process ends, too, before it has the share: what was kept is kept on."""
    before = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": before["attempt"]})
    home.gone(ann)
    for settles in (False, True):
        last = home.registry.rows("ann", "")[0]["instance"]
        user = ann.again()
        body = {"attempt": uuid4().hex, "before": last}
        await eventually(
            lambda user=user: not home.registry.rows("ann", "", user.instance)[0]["held_by_other"],
            "the last one is gone",
        )
        await user.ok("POST", "/v1/shares/k/adopt", body)
        home.cluster.room.clear()
        if settles:
            await user.ok("POST", "/v1/shares/k/settle", {"attempt": body["attempt"]})
        home.gone(user)
        await eventually(
            lambda: home.registry.rows("ann", "")[0]["state"] == "released", "it is kept"
        )
        assert [pod.name for pod in held(home)] == [before["name"]]
        assert home.rules.lent == {("ann", "", "k")}


async def test_what_is_taken_over_without_a_share_is_asked_of_the_limits(
    home: FakeHome, ann: User, bob: User
) -> None:
    before = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": before["attempt"]})
    home.gone(ann)
    home.rules.most = 1
    await bob.start("b")
    second, attempt = ann.again(), uuid4().hex
    await eventually(
        lambda: not home.registry.rows("ann", "", second.instance)[0]["held_by_other"], "it is gone"
    )
    body = {"attempt": attempt, "before": ann.instance}
    await second.ok("POST", "/v1/shares/k/adopt", body)
    status, _ = await second.refused("POST", "/v1/shares/k/settle", {"attempt": attempt})
    assert status == 409
    home.rules.most = 2
    await second.ok("POST", "/v1/shares/k/settle", {"attempt": attempt})
    await second.until("k", "ready")


async def test_an_earlier_start_of_a_kernel_is_not_this_one(ann: User) -> None:
    first = {"attempt": (await ann.start())["attempt"]}
    await ann.start()
    for call in ("release", "take", "withdraw", "settle", "let-go"):
        status, detail = await ann.refused("POST", f"/v1/shares/k/{call}", first)
        assert status == 409 and "started again" in detail


async def test_of_two_who_take_over_one_gets_it(home: FakeHome, ann: User) -> None:
    before = await ann.start()
    await ann.ok("POST", "/v1/shares/k/release", {"attempt": before["attempt"]})
    home.gone(ann)
    rivals = [ann.again() for _ in range(6)]
    answers = await asyncio.gather(
        *(
            each.ask(
                "POST",
                "/v1/shares/k/adopt",
                {"attempt": uuid4().hex, "before": ann.instance},
            )
            for each in rivals
        )
    )
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409, 409]


async def test_who_comes_back_in_time_loses_nothing(home: FakeHome, ann: User) -> None:
    async with ann.events(instance=True) as heard:
        await anext(heard)
        await ann.start()
        last, _, _ = await anext(heard)
    process = Process("ann", "", ann.instance)
    await eventually(lambda: not home.registry.presence._signs[process].streams, "it has ended")
    assert home.registry.presence.alive(process)
    async with ann.events(last, instance=True) as heard:
        assert (await anext(heard))[1] == "row", "it goes on where it stopped"
        await eventually(lambda: home.registry.presence._signs[process].streams == 1, "is back")
    assert len(held(home)) == 1


async def test_what_is_kept_is_not_kept_for_ever(ann: User) -> None:
    async with fake_home(kept=0.2) as home:
        ann = home.user("ann")
        attempt = {"attempt": (await ann.start())["attempt"]}
        await ann.start("busy")
        await ann.ok("POST", "/v1/shares/k/release", attempt)
        home.gone(ann)
        await eventually(lambda: not held(home), "the pods are gone")
        await eventually(lambda: not len(home.registry), "the rows are gone")
        assert not home.rules.held


# -- events --------------------------------------------------------------------------------------


async def test_a_token_that_is_taken_back_ends_the_stream_and_the_process(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.routes._HEARTBEAT", 0.05)
    await ann.start()
    async with ann.events(instance=True) as heard:
        await anext(heard)
        del home.hub.tokens[ann.token]
        home.clock.now += 30
        assert [each async for each in heard] == []
    await eventually(lambda: not held(home), "its kernel has ended")


async def test_a_hub_that_is_away_ends_no_stream(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace it is not known who asks; what runs goes on all the same."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.routes._HEARTBEAT", 0.02)
    await ann.start()
    async with ann.events(instance=True) as heard:
        await anext(heard)
        home.hub.trouble, home.clock.now = 0, home.clock.now + 10_000
        await eventually(lambda: home.callers.hub_away, "the stream has asked the Hub")
        home.registry.changed(next(iter(home.registry)))
        (kernel,) = home.registry
        kernel.reason = "news"
        home.registry.changed(kernel)
        assert (await anext(heard))[2]["row"]["reason"] == "news"
    assert held(home)


async def test_a_broker_that_begins_anew_goes_on_with_what_is_there(
    home: FakeHome, ann: User
) -> None:
    up = await ann.start("up")
    lent = await ann.start("lent")
    await ann.ok("POST", "/v1/shares/lent/release", {"attempt": lent["attempt"]})
    over = await ann.start("over")
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/waits", ann.plan())
    half = await ann.ok("PUT", "/v1/shares/half", ann.plan())
    await eventually(lambda: len(held(home)) == 5, "all are made")
    old = list(home.registry)
    await home.registry.close()
    del home.cluster.pods[half["name"]]
    home.cluster.over[over["name"]] = Exit(137, "It used too much memory.")
    rules, home.rules = home.rules, type(home.rules)()
    second = home.restored(old)
    await eventually(
        lambda: (
            {row["kernel_id"]: row["state"] for row in second.rows("ann", "", ann.instance)}
            == {
                "up": "ready",
                "lent": "released",
                "over": "ended",
                "waits": "waiting",
                "half": "failed",
            }
        ),
        "all are as they were",
    )
    rows = {row["kernel_id"]: row for row in second.rows("ann", "", ann.instance)}
    assert rows["half"]["failed"]["kind"] == "keys"
    assert rows["over"]["ended"] == {"code": 137, "reason": "It used too much memory."}
    assert rows["up"]["attempt"] == up["attempt"]
    assert home.rules.lent == {("ann", "", "lent")}
    assert {each.kernel_id for each in home.rules.held} == {"up", "lent", "waits", "half"}
    # The same start with new keys has its place among those who wait.
    half_key = Key("ann", "", "half")
    first_asked = asked_of(next(each.objects.owner for each in old if each.key == half_key))  # type: ignore[attr-defined]
    assert first_asked is not None
    plan = KernelPlan("half", "python3", Size.parse("1/4"), keys=Keys(KEY.encode()))
    again, _ = await second.start(Process("ann", "", ann.instance), frozenset(), "c" * 32, plan)
    assert home.rules.asked[half_key] == first_asked == again.asked
    home.cluster.room.set()
    await eventually(
        lambda: (
            {row["kernel_id"]: row["state"] for row in second.rows("ann", "", "")}["waits"]
            == "ready"
        ),
        "that which waited is up",
    )
    assert home.cluster.created == [*dict.fromkeys(home.cluster.created)], "nothing made twice"
    await second.close()
    assert CURVE and rules
