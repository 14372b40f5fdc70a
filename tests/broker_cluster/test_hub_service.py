"""The HTTP service of a cluster's broker, over a fake home and before a fake Hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_hub import model
from served import INSTANCE, PREFIX, TOLD, Service
from waiting import eventually

from jupyter_gpu_share.broker.cluster import service as module
from jupyter_gpu_share.broker.cluster.service import hub_of
from jupyter_gpu_share.broker.hub import ADMINISTRATOR
from jupyter_gpu_share.errors import EngineError

WHO = f"{PREFIX}v1/who"
ANN, BOB, CAT = "token-of-ann", "token-of-bob", "token-of-cat"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    made.hub.tokens[ANN] = model("ann", "lab", groups=["course"])
    made.hub.tokens[BOB] = model("bob", None)
    made.hub.tokens[CAT] = model("cat", "", ADMINISTRATOR)
    yield made
    await made.close()


# -- who calls -----------------------------------------------------------------------------------


async def test_a_token_tells_who_calls(service: Service) -> None:
    status, found = await service.told("GET", WHO, token=ANN)
    assert status == 200
    assert (found["user"], found["server"], found["groups"]) == ("ann", "lab", ["course"])
    bearer = await service.ask("GET", WHO, Authorization=f"Bearer {ANN}")
    assert json.loads(bearer.body) == found


@pytest.mark.parametrize("header", ["", "token", "token ", "Basic YW5uOmFubg==", "nonsense"])
async def test_without_a_token_nothing_is_told(service: Service, header: str) -> None:
    status, found = await service.told("GET", WHO, Authorization=header)
    assert (status, found["title"]) == (401, "Unauthorized")
    assert "Authorization: token" in found["detail"] and service.hub.asked == 0


async def test_no_other_way_is_a_proof(service: Service) -> None:
    """Neither cookies nor the address tell who calls, nor does what a body says."""
    for path in (f"{WHO}?token={ANN}", f"{WHO}?user=ann"):
        assert (await service.told("GET", path, Cookie=f"token={ANN}"))[0] == 401
    body = {"size": "1", "user": "ann"}
    status, found = await service.told("PUT", WHO, body, token=ANN, Gpu_Share_Instance=INSTANCE)
    assert status == 400 and "user" in found["detail"]


async def test_unknown_tokens_are_refused_and_lacking_scopes_named(service: Service) -> None:
    assert (await service.told("GET", WHO, token="token-of-nobody"))[0] == 401
    service.hub.tokens[ANN]["scopes"] = []
    status, found = await service.told("GET", WHO, token=ANN)
    assert status == 403 and "access:services!service=gpu-share" in found["detail"]


async def test_a_token_of_no_server_may_look_and_hold_nothing(service: Service) -> None:
    assert (await service.told("GET", WHO, token=BOB))[1]["server"] is None
    put = service.told("PUT", WHO, {"size": "1"}, token=BOB, Gpu_Share_Instance=INSTANCE)
    status, found = await put
    assert status == 403 and "JUPYTERHUB_API_TOKEN" in found["detail"]


@pytest.mark.parametrize("instance", ["", "0" * 31, "G" * 32, "0" * 33, "A" * 32])
async def test_which_process_asks_has_to_be_told(service: Service, instance: str) -> None:
    put = service.told("PUT", WHO, {"size": "1"}, token=ANN, Gpu_Share_Instance=instance)
    status, found = await put
    assert status == 400 and "Gpu-Share-Instance" in found["detail"]
    put = service.told("PUT", WHO, {"size": "1"}, token=ANN, Gpu_Share_Instance=INSTANCE)
    assert await put == (201, {"server": "lab", "instance": INSTANCE, "size": "1"})


async def test_administrators_alone(service: Service) -> None:
    assert (await service.told("DELETE", WHO, token=ANN))[0] == 403
    assert (await service.told("DELETE", WHO, token=CAT))[0] == 200


# -- the Hub away ----------------------------------------------------------------------------------


async def test_while_the_hub_is_away_nothing_new_begins(service: Service) -> None:
    assert (await service.told("GET", WHO, token=ANN))[1]["fresh"]
    service.hub.trouble = 0
    service.clock.now += 21
    assert (await service.told("GET", WHO, token=ANN))[0] == 200
    put = service.told("PUT", WHO, {"size": "1"}, token=ANN, Gpu_Share_Instance=INSTANCE)
    status, found = await put
    assert status == 503 and found["detail"].startswith(
        "The JupyterHub does not answer, so nothing"
    )
    status, found = await service.told("GET", WHO, token=BOB)
    assert status == 503 and "The JupyterHub does not answer" in found["detail"]


async def test_who_stays_connected_is_proven_again(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []
    asking = asyncio.ensure_future(
        service.client.fetch(
            f"http://127.0.0.1:{service.port}{PREFIX}v1/watch",
            headers={"Authorization": f"token {ANN}"},
            streaming_callback=heard.append,
            raise_error=False,
        )
    )
    await eventually(lambda: heard, "the stream is open")
    del service.hub.tokens[ANN]
    service.clock.now += 21
    service.home.again.set()
    await asyncio.wait_for(asking, 10)
    assert b"".join(heard) == b"open\n"
    assert not caplog.records


# -- bounds, errors, states --------------------------------------------------------------------


async def test_one_user_does_not_keep_others_out(service: Service) -> None:
    service.home.gate.clear()
    many = [asyncio.create_task(service.told("GET", WHO, token=ANN)) for _ in range(40)]
    await eventually(lambda: sum(each.done() for each in many) == 8, "what is too much is refused")
    service.home.gate.set()
    statuses = [(await each)[0] for each in many]
    assert sorted(statuses) == [200] * 32 + [429] * 8
    assert (await service.told("GET", WHO, token=ANN))[0] == 200


async def test_who_hangs_up_is_counted_until_their_request_is_done(service: Service) -> None:
    """What is worked on costs the same, whether or not anybody waits for it."""
    under_way = service.server.request_callback.settings["under_way"]  # type: ignore[attr-defined]
    service.home.gate.clear()
    for number in range(1, 4):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        lines = [f"GET {WHO} HTTP/1.1", "Host: x", f"Authorization: token {ANN}"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await eventually(lambda n=number: under_way["ann"] == n, "it is worked on")
        writer.close()
        await writer.wait_closed()
    await eventually(lambda: not service.server._users, "they have hung up")
    assert under_way["ann"] == 3
    service.home.gate.set()
    await eventually(lambda: not under_way, "all are done")


async def test_bodies_that_do_not_end_fill_no_memory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the whole request is there nobody is asked for a token."""
    monkeypatch.setattr(module, "_ARRIVING", (100_000, 1_000_000))
    arriving = service.server.arriving  # type: ignore[attr-defined]
    connections = []
    for number in range(1, 6):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        connections.append((reader, writer))
        lines = [f"PUT {WHO} HTTP/1.1", "Host: x", "Content-Length: 40000"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + b" " * 30_000)
        if number <= 3:
            size = number * 30_000
            await eventually(lambda size=size: arriving.total() == size, "it arrives")
        else:
            assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
    for _, writer in connections:
        writer.close()
    await eventually(lambda: not arriving, "nothing arrives any more")
    assert (await service.told("PUT", WHO, {}, token=ANN, Gpu_Share_Instance=INSTANCE))[0] == 201
    await eventually(lambda: not arriving, "what has arrived counts no more")


async def test_while_one_has_too_many_another_is_served(service: Service) -> None:
    service.home.gate.clear()
    many = [asyncio.create_task(service.told("GET", WHO, token=ANN)) for _ in range(32)]
    held = service.server.request_callback.settings["under_way"]  # type: ignore[attr-defined]
    await eventually(lambda: held["ann"] == 32, "all of them are under way")
    other = asyncio.create_task(service.told("GET", WHO, token=BOB))
    await eventually(lambda: held["bob"] == 1, "bob's is let in")
    service.home.gate.set()
    assert (await other)[0] == 200
    await asyncio.gather(*many)
    await eventually(lambda: not held, "nothing is under way any more")


@pytest.mark.parametrize(("kind", "status"), [("no-gpu", 409), ("not-now", 409), ("away", 503)])
async def test_errors_are_one_line(service: Service, kind: str, status: int) -> None:
    answer = await service.ask("POST", WHO, {"kind": kind}, token=ANN)
    assert answer.code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body)["detail"] == "One line and another"


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"size": 1}', b"[" * 50000])
async def test_bodies_are_read_strictly(service: Service, body: bytes) -> None:
    put = await service.ask("PUT", WHO, body, token=ANN, Gpu_Share_Instance=INSTANCE)
    assert put.code == 400


async def test_large_bodies_are_not_read(service: Service) -> None:
    put = await service.ask("PUT", WHO, b"x" * 70000, token=ANN, Gpu_Share_Instance=INSTANCE)
    assert put.code in (400, 413, 599)
    assert (await service.told("GET", WHO, token=ANN))[0] == 200


async def test_health_needs_no_token_and_says_whether_it_is_of_use(service: Service) -> None:
    for path in ("/healthz", f"{PREFIX}healthz", "/livez"):
        assert await service.told("GET", path) == (200, {"ready": True})
    service.home.ready = False
    assert await service.told("GET", "/healthz") == (503, {"ready": False})
    assert await service.told("GET", "/livez") == (200, {"ready": False})
    status, found = await service.told("GET", WHO, token=ANN)
    assert status == 503 and "has just started" in found["detail"]
    assert service.hub.asked == 1


async def test_addresses_that_are_none(service: Service) -> None:
    for path in ("/", "/v1/who", f"{PREFIX}v1/whoever", "/hubsXservices/gpu-share/v1/who"):
        assert (await service.told("GET", path, token=ANN))[0] == 404


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS", (3, 100))
    service = Service()
    writers: list[asyncio.StreamWriter] = []
    try:
        opened = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(5)]
        writers = [writer for _, writer in opened]
        closed = [asyncio.create_task(reader.read()) for reader, _ in opened]
        await eventually(lambda: sum(each.done() for each in closed) == 2, "two are closed")
        for each in closed:
            each.cancel()
        await asyncio.gather(*closed, return_exceptions=True)
    finally:
        for writer in writers:
            writer.close()
        await service.close()


# -- what the Hub tells its services -------------------------------------------------------------


def test_it_knows_its_hub() -> None:
    hub = hub_of(TOLD)
    assert (hub.prefix, hub.base) == ("/hubs/services/gpu-share/", "/hubs/hub/")
    assert "secret" not in repr(hub) and "secret" not in str(hub)
    without = {k: v for k, v in TOLD.items() if k != "JUPYTERHUB_SERVICE_PREFIX"}
    assert hub_of(without).prefix == "/hubs/services/gpu-share/"
    assert hub_of({**without, "JUPYTERHUB_BASE_URL": ""}).prefix == "/services/gpu-share/"
    assert hub_of({**TOLD, "JUPYTERHUB_SERVICE_PREFIX": "/"}).prefix == "/"


@pytest.mark.parametrize("name", ["SERVICE_NAME", "API_TOKEN", "API_URL"])
def test_it_does_not_start_without_what_proves(name: str) -> None:
    with pytest.raises(EngineError, match=f"JUPYTERHUB_{name} is not set"):
        hub_of({**TOLD, f"JUPYTERHUB_{name}": ""})


@pytest.mark.parametrize(
    "told",
    [
        {"JUPYTERHUB_API_URL": "hub:8081"},
        {"JUPYTERHUB_API_URL": "unix:///run/hub"},
        {"JUPYTERHUB_SERVICE_NAME": "a!service=b"},
        {"JUPYTERHUB_SERVICE_NAME": "a b"},
    ],
)
def test_what_it_is_told_makes_sense(told: dict[str, str]) -> None:
    with pytest.raises(EngineError):
        hub_of({**TOLD, **told})


async def test_a_token_of_another_service_is_noticed(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    own: dict[str, Any] = {"kind": "service", "name": "gpu-share", "scopes": [], "groups": []}
    service.hub.tokens["own-token"] = own
    await service.callers.check_own("own-token")
    assert not caplog.records
    await service.callers.check_own("unknown-own-token")
    assert "does not know the broker's own token" in caplog.text
    service.hub.tokens["own-token"] = {**own, "name": "another"}
    with pytest.raises(EngineError, match="another"):
        await service.callers.check_own("own-token")
    service.hub.trouble = 0
    await service.callers.check_own("own-token")
