"""Calls to the Kubernetes API, with a FAKE server that does what a real one does only at times."""

from __future__ import annotations

import asyncio
import gc
import socket
import types
from collections.abc import Callable, Coroutine, Generator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted import (
    NAMESPACE,
    PODS_PATH,
    Act,
    ScriptedServer,
    lose,
    pod,
    refuse,
    reset,
    right,
    say,
    silence,
    status,
    stream,
)
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._link import Owned
from jupyter_gpu_share.engines.kubernetes._names import PREFIX, SERVER
from jupyter_gpu_share.engines.kubernetes._objects import Owner
from jupyter_gpu_share.engines.kubernetes._ownership import claim_pod
from jupyter_gpu_share.engines.kubernetes.api import (
    PODS,
    AlreadyExists,
    Conflict,
    Forbidden,
    KubeApi,
    KubernetesError,
    NotFound,
    QuotaExceeded,
    ServerTrouble,
    TooManyRequests,
    Unreachable,
    _client,
    _transport,
)

#: A hang guard for what should be over at once.
SOON = 20.0

QUOTA = status(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: few, used: pods=1')


# -- repetitions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", [refuse(500), refuse(503), refuse(504), refuse(429), reset, say(b"<html>")]
)
async def test_what_may_pass_is_asked_again(
    server: ScriptedServer, api: KubeApi, trouble: Act
) -> None:
    server.put("a")
    server.then("get", trouble, trouble, right)
    found = await api.get(PODS, "a", NAMESPACE)
    assert found["metadata"]["name"] == "a"
    assert len(server.asked("get")) == 3


@pytest.mark.parametrize("code", [400, 403, 404, 405, 409, 422])
async def test_what_stays_is_asked_once(server: ScriptedServer, api: KubeApi, code: int) -> None:
    server.then("get", refuse(code))
    with pytest.raises(KubernetesError, match=r"as scripted|405"):
        await api.get(PODS, "a", NAMESPACE)
    assert len(server.asked("get")) == 1


async def test_a_refusal_after_trouble_is_asked_about_once_more(
    server: ScriptedServer, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_client, "_UNSURE", 0.05)
    server.put("a")
    server.then("get", reset, refuse(403))
    await api.get(PODS, "a", NAMESPACE)
    server.then("get", refuse(503), refuse(403), refuse(403), right)
    with pytest.raises(Forbidden):
        await api.get(PODS, "a", NAMESPACE)
    assert len(server.asked("get")) == 6
    server.then("create", refuse(503), refuse(403, QUOTA))
    with pytest.raises(QuotaExceeded):
        await api.create(PODS, pod("b"), NAMESPACE)
    assert len(server.asked("create")) == 2


def in_a_second() -> dict[str, str]:
    """As a date, by a clock of the server that is wrong by years."""
    now = datetime(2031, 1, 1, tzinfo=timezone.utc)
    later = now + timedelta(seconds=1)
    return {
        "Retry_After": format_datetime(later, usegmt=True),
        "Date": format_datetime(now, usegmt=True),
    }


@pytest.mark.parametrize("headers", [{"Retry_After": "1"}, in_a_second()])
async def test_the_server_says_when_to_come_back(
    server: ScriptedServer, api: KubeApi, headers: dict[str, str]
) -> None:
    server.put("a")
    server.then("get", refuse(429, **headers))
    await api.get(PODS, "a", NAMESPACE)
    first, second = server.asked("get")
    # The server's clock began a little later than the client's.
    assert second.at - first.at >= 0.95


@pytest.mark.parametrize("value", ["", "soon", "-3", "Thu, 01 Jan 1970 00:00:00 GMT", "nan"])
async def test_a_time_to_come_back_that_makes_no_sense_does_not_matter(
    server: ScriptedServer, api: KubeApi, value: str
) -> None:
    server.put("a")
    server.then("get", refuse(429, Retry_After=value))
    await asyncio.wait_for(api.get(PODS, "a", NAMESPACE), SOON)
    assert len(server.asked("get")) == 2
    server.then("list", refuse(429, Retry_After=value))
    with pytest.raises(TooManyRequests) as caught:
        await api.list_once(PODS, NAMESPACE)
    assert not caught.value.retry_after


@pytest.mark.parametrize("value", ["3600", "9" * 400])
async def test_nobody_waits_longer_than_a_call_may_take(
    server: ScriptedServer, api: KubeApi, value: str
) -> None:
    server.then("get", refuse(429, Retry_After=value))
    with pytest.raises(TooManyRequests, match="asked to wait") as caught:
        await asyncio.wait_for(api.get(PODS, "a", NAMESPACE), SOON)
    assert caught.value.retry_after == float(value)
    assert len(server.asked("get")) == 1


async def test_patience_ends(server: ScriptedServer, kubeconfig: Path) -> None:
    server.then("get", *[refuse(503)] * 100)
    api = KubeApi(str(kubeconfig), patience=0.3)
    with pytest.raises(ServerTrouble, match="503"):
        await asyncio.wait_for(api.get(PODS, "a", NAMESPACE), SOON)
    await api.close()
    assert 1 < len(server.asked("get")) < 100


async def test_no_answer_is_told_in_words(
    server: ScriptedServer, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "_REQUEST", 0.2)
    server.then("get", silence)
    api = KubeApi(str(kubeconfig), patience=0.0)
    with pytest.raises(Unreachable, match="did not answer in time"):
        await asyncio.wait_for(api.get(PODS, "a", NAMESPACE), SOON)
    await server.close()
    with pytest.raises(Unreachable, match="no connection"):
        await asyncio.wait_for(api.get(PODS, "a", NAMESPACE), SOON)
    await api.close()


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"[]", b"null", b"{}", b'{"kind": "Po'])
async def test_an_answer_of_something_else(
    server: ScriptedServer, kubeconfig: Path, body: bytes
) -> None:
    server.then("get", say(body))
    api = KubeApi(str(kubeconfig), patience=0.0)
    with pytest.raises(ServerTrouble, match="no Kubernetes API"):
        await api.get(PODS, "a", NAMESPACE)
    await api.close()


# -- create and delete -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "passing",
    [
        (409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "q": it was modified'),
        (403, "Forbidden", 'pods "a" is forbidden: status unknown for quota: q'),
    ],
)
async def test_a_quota_that_others_are_counted_in_just_now_is_no_refusal(
    server: ScriptedServer, api: KubeApi, passing: tuple[int, str, str]
) -> None:
    """A class that starts at once in one namespace: the API server does not try for ever itself."""
    busy = refuse(passing[0], status(*passing))
    server.then("create", busy, busy, right)
    await api.create(PODS, pod("a", "attempt-1"), NAMESPACE)
    assert list(server.pods) == ["a"]
    assert len(server.asked("create")) == 3


@pytest.mark.parametrize("after", [(), (refuse(403, QUOTA),), (refuse(500),)])
async def test_what_was_made_although_no_answer_came_is_ours(
    server: ScriptedServer, api: KubeApi, after: tuple[Act, ...]
) -> None:
    server.then("create", lose, *after)
    made = await api.create(PODS, pod("a", "attempt-1"), NAMESPACE)
    assert made["metadata"]["uid"] == server.pods["a"]["metadata"]["uid"]
    assert len(server.pods) == 1


@pytest.mark.parametrize("mine", ["attempt-1", ""])
@pytest.mark.parametrize("theirs", ["attempt-2", ""])
async def test_what_others_made_is_not(
    server: ScriptedServer, api: KubeApi, mine: str, theirs: str
) -> None:
    foreign = server.put("a", pod("a", theirs))
    with pytest.raises(AlreadyExists):
        await api.create(PODS, pod("a", mine), NAMESPACE)
    server.then("create", refuse(403, QUOTA))
    with pytest.raises(QuotaExceeded):
        await api.create(PODS, pod("a", mine), NAMESPACE)
    assert server.pods["a"] == foreign


@pytest.mark.parametrize("code", [404, 403])
async def test_what_others_made_may_be_gone_or_secret(
    server: ScriptedServer, api: KubeApi, code: int
) -> None:
    server.put("a", pod("a", "attempt-2"))
    server.then("get", refuse(code))
    with pytest.raises(AlreadyExists):
        await api.create(PODS, pod("a", "attempt-1"), NAMESPACE)


async def test_a_deletion_whose_answer_is_lost_is_one(server: ScriptedServer, api: KubeApi) -> None:
    server.put("a")
    server.then("delete", lose)
    await api.delete(PODS, "a", NAMESPACE, grace=1)
    assert not server.pods
    assert [call.body["gracePeriodSeconds"] for call in server.asked("delete")] == [1, 1]


async def test_only_the_very_object_is_deleted(server: ScriptedServer, api: KubeApi) -> None:
    first = server.put("a")["metadata"]["uid"]
    server.remove("a")
    second = server.put("a")["metadata"]["uid"]
    await api.delete(PODS, "a", NAMESPACE, uid=first)
    assert server.pods["a"]["metadata"]["uid"] == second
    await api.delete(PODS, "a", NAMESPACE, uid=second)
    assert not server.pods


async def test_a_conflict_about_the_object_itself_is_told(
    server: ScriptedServer, api: KubeApi
) -> None:
    uid = server.put("a")["metadata"]["uid"]
    server.then("delete", refuse(409), refuse(409))
    with pytest.raises(Conflict):
        await api.delete(PODS, "a", NAMESPACE, uid=uid)
    with pytest.raises(Conflict):
        await api.delete(PODS, "a", NAMESPACE)
    server.then("delete", refuse(409))
    server.then("get", refuse(404))
    await api.delete(PODS, "a", NAMESPACE, uid=uid)


async def test_a_change_is_merged(server: ScriptedServer, api: KubeApi) -> None:
    server.put("a")
    server.then("patch", lose)
    change = {"metadata": {"labels": {"x": "y"}}}
    found = await api.patch(PODS, "a", change, NAMESPACE)
    assert found["metadata"]["labels"] == {"x": "y"}
    assert found["metadata"]["uid"] == server.pods["a"]["metadata"]["uid"]
    kinds = {call.headers["content-type"] for call in server.asked("patch")}
    assert kinds == {"application/merge-patch+json"}


@pytest.mark.parametrize(("first", "unsure"), [(lose, True), (refuse(429), False)])
async def test_what_may_have_been_done_by_an_earlier_attempt_is_unsure(
    server: ScriptedServer, api: KubeApi, first: Any, unsure: bool
) -> None:
    server.put("a")
    server.then("patch", first)
    server.then("patch", refuse(409))
    with pytest.raises(Conflict) as caught:
        await api.patch(PODS, "a", {"metadata": {"labels": {"x": "y"}}}, NAMESPACE)
    assert caught.value.unsure is unsure


async def test_a_pod_that_was_taken_although_no_answer_came(
    server: ScriptedServer, api: KubeApi
) -> None:
    """The patch names a version, so that its repetition is a conflict; nobody else was faster."""
    note = PREFIX + "instance"
    server.put(
        "a", {"metadata": {"name": "a", "annotations": {note: "before"}, "labels": {SERVER: "s"}}}
    )
    cluster: Any = SimpleNamespace(api=api, namespace=NAMESPACE)
    server.then("patch", lose)
    taken = await claim_pod(cluster, Owner("s", "mine"), "a", "before")
    assert taken["metadata"]["annotations"] == {note: "mine"}

    async def others(server: ScriptedServer, call: Any, line: Any) -> bool:
        server.pods["a"]["metadata"]["annotations"][note] = "theirs"
        server.put("a")
        return await right(server, call, line)

    server.then("patch", others)
    with pytest.raises(Owned):
        await claim_pod(cluster, Owner("s", "later"), "a", "mine")


# -- lists -----------------------------------------------------------------------------------


async def test_a_list_is_read_page_by_page(server: ScriptedServer, api: KubeApi) -> None:
    for number in range(1203):
        server.put(f"pod-{number}")
    items, position = await api.list(PODS, NAMESPACE)
    assert [item["metadata"]["name"] for item in items] == list(server.pods)
    assert position == str(server.version)
    assert [len(call.query) for call in server.asked("list")] == [1, 2, 2]


async def test_pages_that_expire_are_read_at_once(server: ScriptedServer, api: KubeApi) -> None:
    for number in range(1203):
        server.put(f"pod-{number}")

    async def compacted(server: ScriptedServer, call: Any, line: Any) -> bool:
        server.compact()
        server.put("one-more")
        return await right(server, call, line)

    server.then("list", right, compacted)
    items, position = await api.list(PODS, NAMESPACE, labelSelector="a=b")
    assert [item["metadata"]["name"] for item in items] == list(server.pods)
    assert position == str(server.version)
    last = server.asked("list")[-1]
    assert last.query == {"labelSelector": "a=b"}


async def test_queries_and_names_arrive_as_they_were(server: ScriptedServer, api: KubeApi) -> None:
    selector = "app.kubernetes.io/name=x,tier in (a, b),!gone,k!=v%2B+&=;#"
    await api.list(PODS, NAMESPACE, labelSelector=selector)
    assert server.calls[-1].query["labelSelector"] == selector
    with pytest.raises(NotFound):
        await api.get(PODS, "a?b#c%2Fd", NAMESPACE)
    assert server.calls[-1].target == f"{PODS_PATH}/a%3Fb%23c%252Fd"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secrets/a"])
async def test_no_name_means_anything_else_than_an_object(
    server: ScriptedServer, api: KubeApi, name: str
) -> None:
    for call in (api.get, api.delete):
        with pytest.raises(ValueError, match="name"):
            await call(PODS, name, NAMESPACE)
        with pytest.raises(ValueError, match="name"):
            await call(PODS, "a", name)
    with pytest.raises(ValueError, match="name"):
        await api.log(name, NAMESPACE, 3)
    assert not server.calls


# -- logs ------------------------------------------------------------------------------------


async def test_last_lines(server: ScriptedServer, api: KubeApi) -> None:
    server.then("other", say(b"one\ntw\xff"))
    assert await api.log("a", NAMESPACE, 2) == "one\ntw�"
    call = server.calls[-1]
    assert call.path == f"{PODS_PATH}/a/log"
    assert call.query == {"tailLines": "2", "limitBytes": str(2**18)}


@pytest.mark.parametrize("code", [400, 404])
async def test_no_log_is_an_empty_one(server: ScriptedServer, api: KubeApi, code: int) -> None:
    server.then("other", refuse(code))
    assert await api.log("a", NAMESPACE, 2) == ""


@pytest.mark.parametrize("trouble", [refuse(500), reset])
async def test_a_log_is_not_worth_waiting_for(
    server: ScriptedServer, api: KubeApi, trouble: Act
) -> None:
    server.then("other", trouble)
    with pytest.raises(KubernetesError):
        await api.log("a", NAMESPACE, 2)
    assert len(server.calls) == 1


# -- errors tell no secrets ------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403, 409, 422, 500])
async def test_no_error_has_the_token(server: ScriptedServer, kubeconfig: Path, code: int) -> None:
    async def echo(server: ScriptedServer, call: Any, line: Any) -> bool:
        await line.answer(code, f"sent: {call.headers}".encode())
        return True

    server.then("get", echo, echo)
    api = KubeApi(str(kubeconfig), patience=0.0)
    with pytest.raises(KubernetesError) as caught:
        await api.get(PODS, "a", NAMESPACE)
    await api.close()
    assert server.calls[0].headers["authorization"] == "Bearer t0ken-one"
    assert caught.value.detail
    assert "t0ken-one" not in f"{caught.value} {caught.value.detail} {caught.value.__cause__}"


# -- ending ----------------------------------------------------------------------------------


async def test_close_ends_what_is_under_way(server: ScriptedServer, api: KubeApi) -> None:
    # More than there may be connections: some are only waiting for one.
    server.then("get", *[silence] * 100)
    asked = [asyncio.create_task(api.get(PODS, "a", NAMESPACE)) for _ in range(50)]
    await eventually(lambda: len(server.asked("get")) == 32, "32 are under way")
    await api.close()
    done, pending = await asyncio.wait(asked, timeout=SOON)
    assert not pending
    assert all(isinstance(task.exception(), KubernetesError) for task in done)
    await eventually(lambda: not server.lines, "all connections are closed")
    with pytest.raises(KubernetesError, match="closed"):
        await api.get(PODS, "a", NAMESPACE)
    assert len(server.asked("get")) == 32


async def test_a_stream_that_is_left_is_over(server: ScriptedServer, api: KubeApi) -> None:
    server.then("watch", stream(b"one\ntwo\n"))
    async with api.stream(PODS_PATH, "watch pods", {"watch": "1"}, 60.0) as lines:
        async for line in lines:
            assert line == b"one"
            break
    assert [line async for line in lines] == []
    await eventually(lambda: not server.lines, "its connection is closed")


async def test_a_lost_network_is_noticed_while_nothing_is_said(
    server: ScriptedServer, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kernel whose pod has its place would wait for 90 s until a watch begins anew."""
    lines, found = _transport._lines, []

    def seen(response: Any, what: str) -> Any:
        found.append(response.connection.transport.get_extra_info("socket"))
        return lines(response, what)

    monkeypatch.setattr(_transport, "_lines", seen)
    server.then("watch", stream(b"one\n"))
    async with api.stream(PODS_PATH, "watch pods", {"watch": "1"}, 60.0):
        (line,) = found
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        first, between, times = (
            line.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
    assert first + between * times <= 30


async def test_nothing_is_opened_once_closed(server: ScriptedServer, api: KubeApi) -> None:
    asked = asyncio.create_task(api.get(PODS, "a", NAMESPACE))
    await asyncio.sleep(0)
    await api.close()
    with pytest.raises(KubernetesError, match="closed"):
        await asyncio.wait_for(asked, SOON)
    assert not server.lines


@types.coroutine
def cancelled_at(
    turn: int, work: Coroutine[Any, Any, Any]
) -> Generator[Any, None, tuple[bool, int]]:
    """Do some work, and cancel it where it waits for the ``turn``-th time.

    Returns whether it came so far, and how often it waited.
    """
    task = asyncio.current_task()
    assert task is not None
    waited = 0
    step: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
    while True:
        try:
            awaited = step()
        except StopIteration:
            return False, waited
        except asyncio.CancelledError:
            return True, waited
        waited += 1
        if waited == turn:
            task.cancel()
        try:
            yield awaited
            step = lambda: work.send(None)  # noqa: E731
        except BaseException as error:
            step = lambda error=error: work.throw(error)  # noqa: E731


async def use(api: KubeApi) -> None:
    """One of each kind of call; the first of each loses its answer."""
    await api.create(PODS, pod("a", "attempt-1"), NAMESPACE)
    await api.list(PODS, NAMESPACE)
    await api.patch(PODS, "a", {"metadata": {"labels": {"x": "y"}}}, NAMESPACE)
    query = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "60"}
    async with api.stream(PODS_PATH, "watch pods", query, 60.0) as lines:
        async for _ in lines:
            break
    await api.log("a", NAMESPACE, 1)
    await api.delete(PODS, "a", NAMESPACE)


@pytest.mark.slow
@pytest.mark.parametrize("troubled", [False, True])
async def test_cancelled_anywhere_nothing_is_left(
    server: ScriptedServer, kubeconfig: Path, troubled: bool
) -> None:
    turn, cancelled = 0, True
    while cancelled:
        turn += 1
        server.pods.clear()
        server.tokens = {"t0ken-one"}
        if troubled:
            server._script.clear()
            server.then("create", lose)
            server.then("list", refuse(401), reset)
            server.then("watch", right)
            server.then("delete", refuse(429))
        api = KubeApi(str(kubeconfig))
        asked = asyncio.create_task(_turn(turn, use(api)))
        cancelled, waited = await asyncio.wait_for(asked, SOON)
        assert cancelled == (waited >= turn)
        # What was left behind must not be in the way of others: the same client still works.
        server._script.clear()
        await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
        await api.close()
        others = asyncio.all_tasks() - {asyncio.current_task(), *server.tasks}
        assert not others
        await eventually(lambda: not server.lines, f"all connections are closed, turn {turn}")
    assert turn > 10
    gc.collect()


async def _turn(turn: int, work: Coroutine[Any, Any, Any]) -> tuple[bool, int]:
    return await cancelled_at(turn, work)


async def test_metadata_alone_is_asked_for(server: ScriptedServer, api: KubeApi) -> None:
    server.put("a")
    (found,) = await api.list_metadata(PODS, NAMESPACE, labelSelector="a=b")
    assert found["metadata"]["name"] == "a"
    (call,) = server.asked("list")
    kind = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert call.headers["accept"] == kind
    assert call.query["labelSelector"] == "a=b"
    await api.list(PODS, NAMESPACE)
    assert server.asked("list")[1].headers["accept"] == "application/json"
