"""Who calls a cluster's broker: what the Hub's word is, how long it counts, what is refused."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from fake_hub import ACCESS, Clock, FakeHub, model
from waiting import eventually

from jupyter_gpu_share.broker.cluster import callers as module
from jupyter_gpu_share.broker.cluster.callers import (
    Caller,
    Callers,
    HubAway,
    NotAllowed,
    TooMany,
    UnknownToken,
)
from jupyter_gpu_share.broker.hub import ADMINISTRATOR
from jupyter_gpu_share.errors import EngineError, GpuShareError

TOKEN = "0123456789abcdef"


class World:
    def __init__(self) -> None:
        self.hub, self.clock = FakeHub(), Clock()
        self.hub.tokens[TOKEN] = model("ann")
        self.callers = Callers(self.hub, "gpu-share", clock=self.clock)

    async def of(self, token: str = TOKEN) -> Caller:
        return await self.callers.of(token)

    async def settled(self) -> None:
        """Wait until nothing is asked of the Hub any more."""
        await eventually(lambda: not self.callers._asking, "the Hub has answered")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.callers.close()


# -- who it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "server"),
    [
        (["access:servers!server=ann/"], ""),
        (["access:servers!server=ann/lab"], "lab"),
        (["access:servers!server=ann/lab", "access:servers!server=ann/"], None),
        (["access:servers!server=bob/lab"], None),
        (["access:servers!server=ann-lab/"], None),
        (["access:servers!user=ann"], None),
        (["access:servers!server=bob/", "access:servers!server=ann/"], ""),
        ([], None),
    ],
)
async def test_the_server_is_that_of_the_scope(
    world: World, scopes: list[str], server: str | None
) -> None:
    world.hub.tokens[TOKEN] = model("ann", None, *scopes)
    assert await world.of() == Caller("ann", server)


async def test_groups_and_rights_come_with_the_identity(world: World) -> None:
    world.hub.tokens[TOKEN] = model("ann", "", ADMINISTRATOR, groups=["course", "staff"])
    assert await world.of() == Caller("ann", "", frozenset({"course", "staff"}), administrator=True)


async def test_every_token_of_a_hub_will_not_do(world: World) -> None:
    with pytest.raises(EngineError, match="every token"):
        Callers(world.hub, "")


@pytest.mark.parametrize(
    "lacking", [[], ["access:services!service=gpu-share-2"], ["access:services!service=other"]]
)
async def test_without_the_scope_both_roles_are_named(world: World, lacking: list[str]) -> None:
    world.hub.tokens[TOKEN] = {**model("ann"), "scopes": ["access:servers!server=ann/", *lacking]}
    with pytest.raises(NotAllowed) as refused:
        await world.of()
    text = str(refused.value)
    assert ACCESS in text and '"user"' in text and '"server"' in text and "\n" not in text


@pytest.mark.parametrize(
    ("kind", "scopes"),
    [
        ("service", [ACCESS]),
        ("service", [ADMINISTRATOR]),
        ("service", ["access:services", "access:servers!server=ann/"]),
        ("something", [ACCESS, ADMINISTRATOR]),
    ],
)
async def test_other_services_and_what_is_no_user_are_refused(
    world: World, kind: str, scopes: list[str]
) -> None:
    world.hub.tokens[TOKEN] = {**model("ann"), "kind": kind, "scopes": scopes}
    with pytest.raises(NotAllowed, match=ADMINISTRATOR):
        await world.of()


async def test_a_service_of_administrators_looks_and_is_nobody(world: World) -> None:
    # It has the name of a user, and a scope for their server: neither makes it that user.
    world.hub.tokens[TOKEN] = {**model("ann", "", ADMINISTRATOR, kind="service"), "groups": ["x"]}
    found = await world.of()
    assert found == Caller("service/ann", None, administrator=True)
    world.hub.trouble = 0
    world.clock.now += 21
    assert not (await world.of()).fresh


@pytest.mark.parametrize("token", ["", "short", "a" * 600, "white space", "new\nline1234", "ä" * 9])
async def test_what_is_no_token_is_not_asked_about(world: World, token: str) -> None:
    with pytest.raises(UnknownToken, match="Authorization"):
        await world.of(token)
    assert world.hub.asked == 0


# -- how long a word counts ------------------------------------------------------------------------


async def test_the_hub_is_asked_once_in_20_seconds(world: World) -> None:
    for _ in range(5):
        await world.of()
    assert world.hub.asked == 1
    world.clock.now += 19.9
    await world.of()
    assert world.hub.asked == 1
    world.clock.now += 0.2
    await world.of()
    assert world.hub.asked == 2


async def test_a_token_that_was_taken_back_is_refused(world: World) -> None:
    await world.of()
    del world.hub.tokens[TOKEN]
    world.clock.now += 21
    for _ in range(2):
        with pytest.raises(UnknownToken, match="taken it back"):
            await world.of()
    assert world.hub.asked == 2, "a refusal counts as long"


async def test_many_who_ask_at_once_are_one_question(world: World) -> None:
    world.hub.gate.clear()
    asking = [asyncio.create_task(world.of()) for _ in range(50)]
    await eventually(lambda: world.hub.asked, "the Hub is asked")
    asking[0].cancel()  # the first one leaves; the others are told all the same
    world.hub.gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert set(found[1:]) == {Caller("ann", "")} and world.hub.asked == 1


async def test_unknown_tokens_do_not_keep_known_ones_out(world: World) -> None:
    await world.of()
    world.clock.now += 21
    world.hub.gate.clear()
    flood = [asyncio.create_task(world.of(f"unknown-{n:04}")) for n in range(40)]
    await eventually(lambda: world.hub.asked == 33, "the Hub is asked about some of them")
    known = asyncio.create_task(world.of())
    await eventually(lambda: world.hub.asked == 34, "the Hub is asked about the known one")
    world.hub.gate.set()
    assert await known == Caller("ann", "")
    found = [type(each) for each in await asyncio.gather(*flood, return_exceptions=True)]
    assert found.count(UnknownToken) == 32 and found.count(TooMany) == 8


async def test_what_is_known_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "jupyter_gpu_share.broker.cluster.callers"
    monkeypatch.setattr(f"{module}._MAX_KNOWN", 3)
    monkeypatch.setattr(f"{module}._MAX_REFUSED", 2)
    for n in range(9):
        world.hub.tokens[f"known-{n:04}"] = model(f"user{n}")
        await world.of(f"known-{n:04}")
        with pytest.raises(UnknownToken):
            await world.of(f"unknown-{n:04}")
    assert (len(world.callers._known), len(world.callers._refused)) == (3, 2)


# -- while the Hub is away -------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [0, 500, 502, 503, 429, 302, 200])
async def test_a_hub_that_is_away_is_no_refusal(world: World, trouble: int) -> None:
    """A page of a proxy that answers for the Hub is no word about a token, either."""
    assert (await world.of()).fresh and world.callers.hub_back == math.inf
    world.hub.trouble = trouble
    world.clock.now += 21
    found = await world.of()
    assert found == Caller("ann", "", fresh=False)
    assert world.callers.hub_away and world.callers.hub_back == 0
    with pytest.raises(HubAway, match="does not answer"):
        await world.of("another-token")
    world.hub.trouble = None
    world.clock.now += 5
    await world.of()
    await world.settled()
    assert (await world.of()).fresh and not world.callers.hub_away
    world.clock.now += 7
    assert world.callers.hub_back == 7


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_no_hub_that_is_away(world: World, status: int) -> None:
    await world.of()
    world.hub.trouble = status
    world.clock.now += 21
    with pytest.raises(UnknownToken):
        await world.of()


OWN = "the-token-of-the-broker"


async def dropped(world: World) -> None:
    """An upgrade of the Hub has left out the broker's service, and with it everybody's scope."""
    world.hub.tokens[OWN] = {"kind": "service", "name": "gpu-share", "scopes": [], "groups": []}
    await world.callers.check_own(OWN)
    assert (await world.of()).fresh
    del world.hub.tokens[OWN]
    world.hub.tokens[TOKEN]["scopes"].remove(ACCESS)
    world.clock.now += 21


async def test_a_hub_that_has_dropped_the_broker_is_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await dropped(world)
    for _ in range(20):
        assert await world.of() == Caller("ann", "", fresh=False)
        assert world.callers.hub_away and world.callers.hub_back == 0
        with pytest.raises(HubAway):
            await world.callers.now(TOKEN)
        with suppress(GpuShareError):  # as the home does to find out that it is back
            await world.callers.of(OWN)
        assert world.callers.hub_away
        world.clock.now += 5
    assert [each.getMessage() for each in caplog.records].count(module._DROPPED) == 1
    world.clock.now += 600
    with pytest.raises(HubAway):
        await world.of()
    world.hub.tokens[TOKEN]["scopes"].append(ACCESS)
    world.clock.now += 21
    await world.settled()
    with suppress(HubAway):  # with a new token, which the broker has not
        await world.of()
    await world.settled()
    assert (await world.of()).fresh and not world.callers.hub_away


async def test_who_alone_loses_the_scope_is_refused(world: World) -> None:
    """Though the broker's own token is old by now: others may use it still."""
    bob = "token-of-bob"
    world.hub.tokens[bob] = model("bob")
    await world.of(bob)
    await dropped(world)
    assert (await world.of(bob)).fresh
    with pytest.raises(NotAllowed):
        await world.of()
    assert not world.callers.hub_away


async def test_while_the_broker_is_a_service_who_lacks_the_scope_is_refused(world: World) -> None:
    await dropped(world)
    world.hub.tokens[OWN] = {"kind": "service", "name": "gpu-share", "scopes": [], "groups": []}
    with pytest.raises(NotAllowed):
        await world.of()


async def test_the_grace_ends(world: World) -> None:
    await world.of()
    world.hub.trouble = 0
    world.clock.now += 21
    while world.clock.now < 1000 + 599:
        assert not (await world.of()).fresh
        await world.settled()
        world.clock.now += 7
    world.clock.now = 1000 + 600
    with pytest.raises(HubAway, match="too long"):
        await world.of()


async def test_nobody_waits_each_time_for_a_hub_that_is_away(world: World) -> None:
    await world.of()
    world.hub.trouble = 0
    world.clock.now += 21
    await world.of()
    world.hub.gate.clear()  # from here on it takes long
    for _ in range(10):
        world.clock.now += 3
        assert not (await asyncio.wait_for(world.of(), 5)).fresh
    assert world.hub.asked == 3, "it is asked once at a time"
    world.hub.gate.set()


async def test_who_was_refused_has_no_grace(world: World) -> None:
    world.hub.tokens.clear()
    with pytest.raises(UnknownToken):
        await world.of()
    world.hub.trouble = 0
    world.clock.now += 21
    with pytest.raises(HubAway):
        await world.of()


# -- what is told of tokens ------------------------------------------------------------------------


async def test_no_token_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[Any] = [vars(world.callers), await world.of()]
    world.hub.trouble = 0
    for token in (TOKEN, "another-token-1"):
        world.clock.now += 21
        try:
            texts.append(await world.of(token))
        except HubAway as error:
            texts.append(error)
    await world.settled()
    told = f"{texts} {caplog.text}"
    assert TOKEN not in told and "another-token" not in told and "does not answer" in told


async def test_who_asks_for_the_hubs_word_of_now_gets_no_other(world: World) -> None:
    await world.of()
    assert (await world.callers.now(TOKEN)).user == "ann"
    assert world.hub.asked == 2
    del world.hub.tokens[TOKEN]
    assert await world.of() == Caller("ann", "")  # as it was said a moment ago
    with pytest.raises(UnknownToken):
        await world.callers.now(TOKEN)
    with pytest.raises(UnknownToken):
        await world.of()
    world.hub.tokens[TOKEN] = model("ann")
    world.clock.now += 60
    await world.of()
    world.hub.trouble = 0
    for _ in range(2):
        with pytest.raises(HubAway):
            await world.callers.now(TOKEN)
