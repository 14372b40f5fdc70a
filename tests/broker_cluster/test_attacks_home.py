"""What an attacker with a server of their own tries, and what an unlucky day brings: all users'
kernels with a fake cluster."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from fake_objects import FakeObjects
from homes import FakeHome, User, fake_home, held
from waiting import eventually

from jupyter_gpu_share.broker.cluster.refusals import Refused
from jupyter_gpu_share.broker.cluster.ruling import Key
from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes._names import SERVER, hub_server_name
from jupyter_gpu_share.engines.kubernetes._parked import Parked
from jupyter_gpu_share.engines.kubernetes.api import (
    Forbidden,
    QuotaExceeded,
    ServerTrouble,
    Unauthorized,
    Unreachable,
)


async def test_the_stream_of_an_earlier_server_does_not_end_the_next_ones_kernels(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of a server has a token of its own; a node that is lost closes no connection."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.routes._HEARTBEAT", 0.05)
    async with ann.events(instance=True) as earlier:
        await anext(earlier)
        later = home.user("ann")
        await later.start()
        async with later.events(instance=True) as heard:
            await anext(heard)
            del home.hub.tokens[ann.token]
            home.clock.now += 30
            assert [each async for each in earlier][-1][1] == "row", "it ends: its token is none"
            home.registry.presence.look()
            (kernel,) = home.registry
            assert home.registry.presence.alive(kernel.process)
            assert held(home) and kernel.phase.value == "ready"


async def taken_over(home: FakeHome, ann: User, *, lost: int) -> tuple[User, dict[str, str]]:
    """A next process that asks for the kernel of the last one, ``lost`` times without an answer."""
    await ann.start()
    home.gone(ann)
    await eventually(lambda: bool(home.rules.lent), "it is kept without its share")
    home.cluster.lost_adoptions = lost
    second = ann.again()
    (row,) = await second.ok("GET", "/v1/shares")
    body = {"attempt": uuid4().hex, "before": row["instance"]}
    for _ in range(lost):
        assert (await second.ask("POST", "/v1/shares/k/adopt", body))[0] == 503
        (kernel,) = home.registry
        kernel.objects.look()
        assert not kernel.objects.lost and not kernel.phase.over
    return second, body


async def test_a_kernel_is_not_lost_though_the_answer_is_that_it_was_taken_over() -> None:
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        second, body = await taken_over(home, ann, lost=2)
        await second.ok("POST", "/v1/shares/k/adopt", body)
        await second.ok("POST", "/v1/shares/k/settle", {"attempt": body["attempt"]})
        await second.until("k", "ready")
        assert len(home.rules.held) == 1 and not home.rules.lent, "it counts"
        assert (await second.ask("DELETE", f"/v1/shares/k?attempt={body['attempt']}"))[0] == 200
        assert not held(home)


async def test_whoever_comes_after_one_who_was_not_answered_gets_the_kernel() -> None:
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        second, _ = await taken_over(home, ann, lost=1)
        home.gone(second)
        third = second.again()
        (row,) = await third.ok("GET", "/v1/shares")
        body = {"attempt": uuid4().hex, "before": row["instance"]}
        row = await third.ok("POST", "/v1/shares/k/adopt", body)
        assert row["instance"] == third.instance and held(home)[0].owner.instance == third.instance


async def test_nothing_is_left_where_the_answer_was_lost_and_nobody_comes_back() -> None:
    async with fake_home(parking=parks, kept=0.05) as home:
        ann = home.user("ann")
        await ann.start()
        home.cluster.lost_adoptions = 1
        home.gone(ann)
        await eventually(lambda: not held(home), "it is not kept for ever")
        assert not home.rules.held


async def parks(connection: Connection, before: str) -> Parked:
    return Parked(True)


TROUBLES = [
    Unreachable("The Kubernetes API did not answer."),
    ServerTrouble("The Kubernetes API has a problem."),
    Forbidden("The broker may not read pods."),
    Unauthorized("The token is too old."),
    QuotaExceeded("The quota is used up."),
]


async def adopted(home: FakeHome, ann: User, *, lent: bool) -> tuple[User, str]:
    """A next process that has a kernel before its agent has answered, and the attempt."""
    row = await ann.start()
    if lent:
        await ann.ok("POST", "/v1/shares/k/release", {"attempt": row["attempt"]})
    (kernel,) = home.registry
    second, attempt = ann.again(), uuid4().hex
    await second.ok("PUT", "/v1/idle", {"kernels": {}})  # it is heard
    await home.registry._adopt(kernel, kernel.process._replace(instance=second.instance), attempt)
    return second, attempt


@pytest.mark.parametrize("what", ["take", "change"])
async def test_before_the_agent_has_answered_no_share_is_asked_for(
    home: FakeHome, ann: User, what: str
) -> None:
    """It would wait for ever in a line, and room would be held for it."""
    second, attempt = await adopted(home, ann, lent=True)
    body = {"attempt": attempt, **({"size": "1", "dry_run": False} if what == "change" else {})}
    assert (await second.refused("POST", f"/v1/shares/k/{what}", body))[0] == 409
    assert home.rules.lent == {("ann", "", "k")}, "it neither holds a share nor waits for one"


async def test_a_cluster_that_does_not_answer_ends_no_kernel_that_is_taken_over(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    second, attempt = await adopted(home, ann, lent=False)
    home.cluster.unsettled = list(TROUBLES)
    await second.ok("POST", "/v1/shares/k/settle", {"attempt": attempt})
    await second.until("k", "ready")
    assert not home.cluster.unsettled and held(home)


async def test_a_cluster_that_refuses_for_a_moment_ends_no_kernel_at_a_restart(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    await ann.start()
    (old,) = home.registry
    await home.registry.close()
    home.cluster.unsettled = list(TROUBLES)
    second = home._registry()
    kernel = second.restore(
        old.key, old.attempt, old.plan, old.objects.owner, old.groups, old.objects.name, ran=True
    )
    await eventually(lambda: kernel.phase.value == "ready", "it is known again")
    assert not home.cluster.unsettled and held(home)
    await second.close()


async def test_who_waits_for_a_share_and_is_not_heard_for_a_while_can_ask_again(
    home: FakeHome, ann: User
) -> None:
    """What was reserved for it is not, or its place in the line would be for ever."""
    row = await ann.start()
    attempt = {"attempt": row["attempt"]}
    await ann.ok("POST", "/v1/shares/k/release", attempt)
    home.cluster.room.clear()
    await ann.ok("POST", "/v1/shares/k/take", attempt)
    (kernel,) = home.registry
    home.registry._gone(kernel.process)
    await eventually(lambda: kernel.phase.value == "released", "nobody waits")
    assert home.registry.presence.alive(kernel.process), "it was heard again meanwhile"
    assert home.rules.lent == {kernel.key}
    home.cluster.room.set()
    await ann.ok("POST", "/v1/shares/k/take", attempt)
    await ann.until("k", "ready")


async def test_a_kernel_that_is_settled_already_is_asked_for_again_like_any_other(
    home: FakeHome, ann: User
) -> None:
    """As by a server whose word was heard by an earlier broker."""
    row = await ann.start()
    attempt = {"attempt": row["attempt"]}
    await ann.ok("POST", "/v1/shares/k/release", attempt)
    await ann.ok("POST", "/v1/shares/k/settle", attempt)
    await ann.until("k", "ready")
    assert not home.rules.lent


async def test_one_whose_agent_has_not_answered_yet_is_parked_too() -> None:
    async with fake_home(parking=parks) as home:
        second, _ = await adopted(home, home.user("ann"), lent=False)
        home.gone(second)
        await second.until("k", "released")
        assert held(home)[0].lent


async def test_an_order_about_a_kernel_that_was_taken_over_meanwhile_is_refused(
    home: FakeHome, ann: User
) -> None:
    await ann.start()
    (kernel,) = home.registry
    async with kernel.lock:
        taking = asyncio.create_task(home.registry.give_back_by_rule(kernel))
        kernel.vacated = True
        await asyncio.sleep(0)
        await home.registry._adopt(kernel, kernel.process._replace(instance="c" * 32), "d" * 32)
    with pytest.raises(Refused):
        await asyncio.wait_for(taking, 10)
    assert not held(home)[0].lent and not home.rules.lent


async def test_limits_go_by_the_groups_that_the_hub_tells_now(home: FakeHome) -> None:
    """Who has left a group takes no share by its right, however old the kernel is."""
    ann = home.user("ann", groups=["staff"])
    row = await ann.start()
    attempt = {"attempt": row["attempt"]}
    key = ("ann", "", "k")
    assert home.rules.groups[key] == {"staff"}
    home.hub.tokens[ann.token]["groups"] = []
    home.clock.now += 30
    await ann.ok("POST", "/v1/shares/k/change", {**attempt, "size": "1/2", "dry_run": False})
    assert home.rules.groups[key] == frozenset()


async def test_the_next_pod_is_made_when_the_last_one_is_to_end_and_not_before(
    home: FakeHome, ann: User
) -> None:
    """A broker that is killed in between leaves one pod of a kernel, not two."""
    home.cluster.room.clear()
    await ann.ok("PUT", "/v1/shares/k", ann.plan())
    (first,) = held(home)
    seen = []
    make = first.cluster.make

    def watched(*args: Any) -> FakeObjects:
        objects = make(*args)
        objects.on_make = lambda: seen.append(first.name in home.cluster.pods)
        return objects

    home.registry._make = watched
    await ann.ok("PUT", "/v1/shares/k", ann.plan())
    await eventually(lambda: seen, "it is made")
    assert seen == [False]


async def test_one_user_cannot_fill_the_brokers_memory(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream that nobody reads holds all rows of a server."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.presence._MOST_OF_USER", 5)
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.starts._MOST_ROWS", 2)
    path = "\N{SNAKE}" * 4096
    row = await ann.ok("PUT", "/v1/shares/a", ann.plan(info={"kernel_name": "p", "path": path}))
    assert len(json.dumps(row)) < 5000
    await ann.until("a", "ready")
    lab = home.user("ann", "lab")
    await lab.start("b")
    assert (await lab.refused("PUT", "/v1/shares/c", lab.plan()))[0] == 409
    assert (await ann.ask("PUT", "/v1/shares/a", ann.plan()))[0] == 201, "one in its place"
    async with AsyncExitStack() as streams:
        for n in range(5):
            each = [ann, ann.again(), lab][n % 3]
            heard = await streams.enter_async_context(each.events(instance=True))
            await anext(heard)
        for each in (ann.again(), home.user("ann", "third")):
            heard = await streams.enter_async_context(each.events(instance=True))
            assert [event async for event in heard] == []
            assert each.last_stream.startswith("HTTP/1.1 429")
        bob = await streams.enter_async_context(home.user("bob").events(instance=True))
        await anext(bob)


async def test_a_number_without_end_is_no_number(home: FakeHome, ann: User) -> None:
    await ann.start()
    assert (await ann.refused("GET", f"/v1/shares/k/log?lines={'9' * 5000}"))[0] == 400


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
async def test_a_cluster_in_trouble_costs_nobodys_variables_when_a_server_stops(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        await ann.start()
        home.cluster.lost_adoptions, home.cluster.unsettled = 2, [trouble] * 2
        home.gone(ann)
        await ann.again().until("k", "released")
        assert held(home)[0].lent and not home.cluster.unsettled


async def test_what_the_cluster_goes_on_refusing_ends_the_kernel_with_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._REFUSALS", 0.05)
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        await ann.start()
        home.cluster.unsettled = [Forbidden("The broker may not read pods.")] * 1000
        home.gone(ann)
        await ann.again().until("k", "ended")
        await eventually(lambda: not held(home), "its pod has ended")


async def test_a_share_that_cannot_be_given_back_at_the_moment_costs_no_variables(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    await ann.start()
    idle = {"idle_seconds": 5, "keep_seconds": None, "vacated": True}
    await ann.ok("PUT", "/v1/idle", {"kernels": {"k": idle}})
    home.cluster.not_now = list(TROUBLES)
    home.gone(ann)
    await ann.again().until("k", "released")
    assert held(home)[0].lent and not home.cluster.not_now


async def test_one_user_does_not_have_all_threads_reckon_for_them(
    home: FakeHome, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[str] = []
    go_on = asyncio.Event()

    async def fits(key: Key, groups: Any, sizes: Any) -> list[None]:
        under_way.append(key.user)
        await go_on.wait()
        return [None for _ in sizes]

    monkeypatch.setattr(home.seen, "fits", fits)
    body = {"kernel_id": None, "sizes": ["1/4"]}
    asked = [asyncio.create_task(ann.ok("POST", "/v1/fits", body)) for _ in range(5)]
    await eventually(lambda: under_way, "one of them is reckoned")
    asked.append(asyncio.create_task(home.user("bob").ok("POST", "/v1/fits", body)))
    await eventually(lambda: "bob" in under_way, "another user's is, too")
    assert under_way == ["ann", "bob"]
    go_on.set()
    assert await asyncio.gather(*asked) == [[None]] * 6


ODD: list[Any] = [
    None, True, -1, 0, 1e300, float("inf"), float("nan"), 10**400, "", "\x00", "\ud800", "x" * 9000,
    "1e999", [], {}, [[]], {"a": 1}, "\r\nX: y", "²", "1/0", "-1", "9" * 90 + "/1", "../..",
]  # fmt: skip


async def test_nothing_that_is_sent_meets_an_error_of_the_brokers_own(
    home: FakeHome, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    row = await ann.start()
    known = {"attempt": row["attempt"]}
    plan = ann.plan()
    requests: list[tuple[str, str, Any]] = []
    for odd in ODD:
        idle = {"idle_seconds": odd, "keep_seconds": odd, "vacated": odd, "size": odd, "kept": odd}
        requests += [
            *(("PUT", "/v1/idle", {"kernels": {"k": {name: idle[name]}}}) for name in idle),
            ("PUT", "/v1/idle", {"kernels": odd}),
            ("PUT", "/v1/idle", {"kernels": {str(odd)[:99]: {"idle_seconds": 1}}}),
            *(("PUT", "/v1/shares/odd", {**plan, name: odd}) for name in plan),
            *(
                ("PUT", "/v1/shares/odd", {**plan, "pod": {**plan["pod"], name: odd}})
                for name in plan["pod"]
            ),
            *(
                ("PUT", "/v1/shares/odd", {**plan, "info": {**plan["info"], name: odd}})
                for name in plan["info"]
            ),
            ("POST", "/v1/shares/k/change", {**known, "size": odd, "dry_run": True}),
            ("POST", "/v1/shares/k/leaving", {**known, "grace": odd}),
            ("POST", "/v1/shares/k/adopt", {"attempt": odd, "before": odd}),
            ("PATCH", "/v1/shares/k", {**known, "path": odd}),
            ("POST", "/v1/fits", {"kernel_id": odd, "sizes": [odd]}),
            ("POST", "/v1/fits", {"kernel_id": None, "sizes": odd}),
            ("POST", "/v1/rounding", {"size": odd}),
        ]
    for method, path, body in requests:
        status, _ = await ann.ask(method, path, body)
        assert status not in (500, 503), (method, path, str(body)[:200])
    for path in ("log?lines=\u0663", "log?lines=%00", "log?lines=1e3", "connection?x=%ff", "%ff"):
        status, _ = await ann.ask("GET", f"/v1/shares/k/{path}")
        assert status != 500, path
    for last in ("x-1", "-", f"{home.events._name}--1", f"{home.events._name}-{'9' * 30}"):
        async with ann.events(last) as heard:
            assert (await anext(heard))[1] == "reset"
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize(("name", "server"), [("mallory", ""), ("ann", "lab"), ("ann-", "")])
async def test_nobody_takes_an_id_away_from_somebody_else(
    home: FakeHome, ann: User, name: str, server: str
) -> None:
    """Who knows it may have a kernel of that id, too: it is another one, of which ann sees none."""
    row = await ann.start()
    await ann.ok("DELETE", f"/v1/shares/k?attempt={row['attempt']}")
    other = home.user(name, server)
    other.instance = ann.instance
    body = {**other.plan(), "attempt": row["attempt"]}
    assert (await other.ask("PUT", "/v1/shares/k", body))[0] == 201
    theirs = await other.until("k", "ready")
    again = await ann.start()
    assert again["name"] != theirs["name"]
    assert {pod.name for pod in held(home)} == {again["name"], theirs["name"]}
    assert [each["name"] for each in await ann.ok("GET", "/v1/shares")] == [again["name"]]
    await other.ok("DELETE", f"/v1/shares/k?attempt={theirs['attempt']}")
    await other.ok("DELETE", f"/v1/shares/k?attempt={again['attempt']}")
    assert [pod.name for pod in held(home)] == [again["name"]]
    assert (await ann.row() or {})["state"] == "ready"


async def test_two_kernels_of_one_id_are_told_apart_by_what_they_have(home: FakeHome) -> None:
    kernels = []
    for user in ("ann", "mallory"):
        await home.user(user).start(user)
        (kernel,) = (each for each in home.registry if each.key.user == user)
        kernels.append(kernel)
    await home.registry.close()
    second = home._registry()
    for old in kernels:
        key, plan = old.key._replace(kernel_id="same"), replace(old.plan, kernel_id="same")
        owner = old.objects.owner  # type: ignore[attr-defined]
        second.restore(key, old.attempt, plan, owner, old.groups, old.objects.name, ran=True)
    for kernel in second:
        await kernel.begun.wait()
        obj = {"metadata": {"labels": {SERVER: hub_server_name(kernel.key.user, "")}}}
        assert second.by_object("same", obj) is kernel
    mallory = next(each for each in second if each.key.user == "mallory")
    second.end_by_hand(mallory, "It ended.")
    second._retire(mallory)
    (ann,) = second
    obj = {"metadata": {"labels": {SERVER: hub_server_name("ann", "")}}}
    assert second.by_object("same", obj) is ann
    await second.close()


async def test_what_an_administrator_says_of_an_end_stays() -> None:
    home: FakeHome

    async def park(connection: Connection, before: str) -> Parked:
        (kernel,) = home.registry
        home.registry.end_by_hand(kernel, "An administrator ended the kernel.")
        return Parked(False, "It did not leave its GPU.")

    async with fake_home(parking=park) as home:
        ann = home.user("ann")
        await ann.start()
        home.gone(ann)
        await eventually(lambda: not held(home), "it has ended")
        await home.registry.close()
        (row,) = home.registry.rows("ann", "")
        assert row["lost_work"] == "An administrator ended the kernel."


@pytest.mark.parametrize("vacated", [True, False])
async def test_who_comes_back_while_the_cluster_is_away_keeps_the_share(
    vacated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be given away from under a kernel that is used again."""
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._AGAIN", 0.01)
    monkeypatch.setattr("jupyter_gpu_share.broker.cluster.lives._LONGEST", 0.01)
    async with fake_home(parking=parks) as home:
        ann = home.user("ann")
        await ann.start()
        idle = {"idle_seconds": 5, "keep_seconds": None, "vacated": vacated}
        await ann.ok("PUT", "/v1/idle", {"kernels": {"k": idle}})
        home.cluster.lost_adoptions = 1000
        home.cluster.not_now = [Unreachable("The Kubernetes API did not answer.")] * 1000
        home.gone(ann)
        (kernel,) = home.registry
        await eventually(lambda: "has stopped" in kernel.reason, "it is tried")
        await ann.ok("PUT", "/v1/idle", {"kernels": {}})
        await eventually(lambda: not kernel.lock.locked(), "nothing is tried any more")
        home.cluster.lost_adoptions, home.cluster.not_now = 0, []
        row = await ann.row()
        assert row is not None and row["state"] == "ready" and row["instance"] == ann.instance
        assert row["reason"] == ""
        assert not held(home)[0].lent and not home.rules.lent
