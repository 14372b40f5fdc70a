"""The server's end of the conversation with an agent; the agent here is a fake that may lie."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq
import zmq.asyncio
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes import _link
from jupyter_gpu_share.engines.kubernetes._link import AgentLink, AgentState, Owned
from jupyter_gpu_share.errors import EngineError

KEY = b"a key of the session"
NOTHING = {"op": "state", "run": None, "pid": None, "exit": None, "reading": None}


class FakeAgent:
    """Says what a test wants it to say, to whoever has spoken last."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.peer = b""

    async def hear(self, *ops: str) -> dict[str, Any]:
        """The next message, or the next one of some kinds; its signature is right."""
        while True:
            frames = await asyncio.wait_for(self.socket.recv_multipart(), PATIENCE)
            self.peer, signature, payload = frames
            assert signature == sign(payload)
            message: dict[str, Any] = json.loads(payload)
            if not ops or message["op"] in ops:
                return message

    async def tell(self, **fields: Any) -> None:
        """A state like that of an agent that has done nothing, but for the fields."""
        await self.tell_raw(json.dumps(NOTHING | fields).encode())

    async def tell_raw(self, payload: bytes) -> None:
        await self.socket.send_multipart([self.peer, sign(payload), payload])


def sign(payload: bytes, key: bytes = KEY) -> bytes:
    return hmac.new(key, payload, hashlib.sha256).hexdigest().encode()


@pytest.fixture
async def context() -> AsyncIterator[zmq.asyncio.Context]:
    own = zmq.asyncio.Context()
    yield own
    own.destroy(linger=0)


@pytest.fixture
def agent(context: zmq.asyncio.Context) -> FakeAgent:
    return FakeAgent(context)


@pytest.fixture
def told() -> list[AgentState]:
    """What the link has told of."""
    return []


@pytest.fixture
async def link_with(
    context: zmq.asyncio.Context,
    agent: FakeAgent,
    told: list[AgentState],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[..., AgentLink]]:
    """Makes links to the fake agent."""
    monkeypatch.setattr(_link, "_REPEAT", 0.05)
    made: list[AgentLink] = []

    def make(
        renewal: float = 60.0,
        changed: Callable[[AgentState], None] = told.append,
        replaces: str = "",
    ) -> AgentLink:
        connection = Connection(transport="tcp", ip="127.0.0.1", ports={}, key=KEY)
        link = AgentLink(connection, agent.port, instance="a", renewal=renewal, changed=changed)
        link.open(context, replaces)
        made.append(link)
        return link

    yield make
    for link in made:
        await link.close()


@pytest.fixture
async def link(link_with: Callable[..., AgentLink]) -> AgentLink:
    return link_with()


# -- what it says ------------------------------------------------------------------------------


async def test_every_message_says_who_speaks_and_how_often(
    link: AgentLink, agent: FakeAgent
) -> None:
    who = {"instance": "a", "renewal": 60.0}
    assert await agent.hear() == who | {"op": "renew"}
    await link.signal(2)
    assert await agent.hear() == who | {"op": "signal", "signum": 2}
    await link.quit()
    assert await agent.hear() == who | {"op": "quit"}
    starting = asyncio.ensure_future(link.start("r1", ["python"], {"A": "1"}, "/work"))
    assert await agent.hear() == who | {
        "op": "start",
        "run": "r1",
        "argv": ["python"],
        "env": {"A": "1"},
        "cwd": "/work",
    }
    await agent.tell(run="r1", pid=5)
    assert (await starting).pid == 5


async def test_it_renews_by_itself(link_with: Callable[..., AgentLink], agent: FakeAgent) -> None:
    link_with(renewal=0.02)
    for _ in range(5):
        assert (await agent.hear())["op"] == "renew"


async def test_that_nothing_is_to_be_saved_is_said_with_every_sign_of_life(
    link_with: Callable[..., AgentLink], agent: FakeAgent
) -> None:
    link = link_with(renewal=0.02)
    await agent.hear("renew")
    await link.leave()
    await agent.hear("leave")
    for _ in range(3):
        assert (await agent.hear())["op"] == "leave"


async def test_whom_it_replaces_is_said_until_the_agent_has_accepted(
    link_with: Callable[..., AgentLink], agent: FakeAgent
) -> None:
    link = link_with(replaces="old")
    greeting = asyncio.ensure_future(link.greet())
    assert (await agent.hear())["replaces"] == "old", "it is said from the first sign of life on"
    for _ in range(3):
        assert (await agent.hear())["replaces"] == "old", "it is said until there is an answer"
    await agent.tell(run="r0", pid=7)
    assert await greeting == AgentState(run="r0", pid=7)
    await link.quit()
    assert "replaces" not in await agent.hear("quit")


# -- what it waits for -------------------------------------------------------------------------


async def test_a_start_is_said_again_until_it_is_known_what_became_of_it(
    link: AgentLink, agent: FakeAgent
) -> None:
    starting = asyncio.ensure_future(link.start("r2", [], {}, None))
    unsettled: list[dict[str, Any]] = [
        {},
        {"run": "r1", "pid": 5},
        {"run": "r1", "exit": {"code": 1, "why": ""}},
        {"run": "r2"},
        {"run": "r2", "reading": {"used_bytes": 5}},
    ]
    for state in unsettled:
        await agent.hear("start")
        await agent.tell(**state)
        await agent.hear("start")
        assert not starting.done(), state
    await agent.tell(run="r2", exit={"code": -9, "why": "oom"})
    assert await starting == AgentState(run="r2", exit_code=-9, exit_why="oom")


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ({}, True),
        ({"run": "r1", "exit": {"code": 0}}, True),
        ({"run": "r1"}, False),
        ({"run": "r1", "pid": 5}, False),
        ({"pid": 5}, False),
    ],
)
async def test_an_end_is_said_again_until_nothing_runs_or_is_about_to(
    state: dict[str, Any], ended: bool, link: AgentLink, agent: FakeAgent
) -> None:
    ending = asyncio.ensure_future(link.end(PATIENCE))
    await agent.hear("end")
    await agent.tell(**state)
    if not ended:
        await agent.hear("end")
        await agent.hear("end")
        assert not ending.done()
        await agent.tell(run="r1", exit={"code": -9})
    await asyncio.wait_for(ending, PATIENCE)


async def test_an_end_is_not_waited_for_for_ever(link: AgentLink, agent: FakeAgent) -> None:
    ending = asyncio.ensure_future(link.end(0.2))
    await agent.hear("end")
    await asyncio.wait_for(ending, PATIENCE)


@pytest.mark.parametrize("what", ["greet", "start"])
async def test_another_server_has_it(what: str, link: AgentLink, agent: FakeAgent) -> None:
    calls: dict[str, Any] = {"greet": link.greet, "start": lambda: link.start("r1", [], {}, None)}
    asking = asyncio.ensure_future(calls[what]())
    await agent.hear()
    await agent.tell_raw(b'{"op": "refused"}')
    with pytest.raises(Owned, match="Another Jupyter server of the same name runs this kernel"):
        await asyncio.wait_for(asking, PATIENCE)
    # The agent has changed its mind: the other one is gone.
    await agent.tell(run="r1", pid=5)
    await eventually(lambda: link.state, "the state is taken")
    assert (await link.greet()).pid == 5


@pytest.mark.parametrize("what", ["greet", "start", "end"])
async def test_who_waits_when_the_link_is_closed_waits_no_more(
    what: str, link: AgentLink, agent: FakeAgent
) -> None:
    calls: dict[str, Any] = {
        "greet": link.greet,
        "start": lambda: link.start("r1", [], {}, None),
        "end": lambda: link.end(PATIENCE),
    }
    asking = asyncio.ensure_future(calls[what]())
    await agent.hear()
    await link.close()
    if what == "end":
        await asyncio.wait_for(asking, PATIENCE)
    else:
        with pytest.raises(EngineError, match="let go of in the meantime"):
            await asyncio.wait_for(asking, PATIENCE)
    # Nothing can be said any more, and nothing goes wrong.
    await link.signal(2)
    await link.close()
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("agent ")]


async def test_an_agent_that_is_not_there_yet_is_heard_when_it_comes(
    context: zmq.asyncio.Context, link_with: Callable[..., AgentLink], agent: FakeAgent
) -> None:
    address = f"tcp://127.0.0.1:{agent.port}"
    agent.socket.unbind(address)
    link = link_with()
    starting = asyncio.ensure_future(link.start("r1", [], {}, None))

    def bound() -> bool:
        # A port is free only some time after its unbinding.
        try:
            agent.socket.bind(address)
        except zmq.ZMQError as err:
            if err.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    await eventually(bound, "the agent listens again")
    await agent.hear("start")
    await agent.tell(run="r1", pid=5)
    assert (await asyncio.wait_for(starting, PATIENCE)).pid == 5


# -- what it hears -----------------------------------------------------------------------------


async def test_a_state_is_told_once_and_kept(
    link: AgentLink, agent: FakeAgent, told: list[AgentState]
) -> None:
    await agent.hear()
    reading = {"used_bytes": 5, "utilization": 0.25, "memory_bytes": 7}
    for _ in range(3):
        await agent.tell(run="r1", pid=5, reading=reading)
    await agent.tell(run="r1", exit={"code": 3, "why": "because"})
    await eventually(lambda: len(told) == 2, "both are told")
    assert told == [
        AgentState(run="r1", pid=5, used_bytes=5, utilization=0.25, memory_bytes=7),
        AgentState(run="r1", exit_code=3, exit_why="because"),
    ]
    assert link.state == told[-1]


LONG = "x" * 299
#: What an agent's user could make it say, and what is taken of it.
BENT: list[tuple[dict[str, Any], AgentState]] = [
    ({}, AgentState()),
    ({"op": "something else", "more": [1]}, AgentState()),
    ({"exit": {}, "reading": {}}, AgentState()),
    ({"exit": {"code": 255}}, AgentState(exit_code=255)),
    ({"exit": {"code": -255}}, AgentState(exit_code=-255)),
    ({"exit": {"why": "a\nb\r\n\tc"}}, AgentState(exit_why="a b c")),
    ({"exit": {"why": "\x1b[2Ja\0b\u202ec\ud800d"}}, AgentState(exit_why="[2Ja b c d")),
    ({"exit": {"why": LONG + "yz"}}, AgentState(exit_why=LONG + "y")),
    ({"reading": {"used_bytes": 2**63 - 1}}, AgentState(used_bytes=2**63 - 1)),
    ({"reading": {"utilization": 0}}, AgentState(utilization=0.0)),
    ({"reading": {"utilization": 1}}, AgentState(utilization=1.0)),
]


@pytest.mark.parametrize(("fields", "state"), BENT, ids=lambda value: str(value)[:40])
async def test_what_can_be_so_is_taken(
    fields: dict[str, Any], state: AgentState, link: AgentLink, agent: FakeAgent
) -> None:
    await agent.hear()
    await agent.tell(**fields)
    await eventually(lambda: link.state, "the state is taken")
    assert link.state == state


HUGE = 10**400
LIES: list[dict[str, Any]] = [
    *({"leaving": value} for value in (None, 0, 1, "yes", [])),
    *({"run": value} for value in (5, True, [], {}, 1.5)),
    *({"pid": value} for value in ("5", -1, 2**63, HUGE, 5.0, True, [], {})),
    *({"exit": value} for value in (5, "gone", [1], True)),
    *({"exit": {"code": value}} for value in ("0", -256, 256, HUGE, 0.0, False, [], {})),
    *({"exit": {"code": 0, "why": value}} for value in (None, 5, [], {}, True)),
    *({"reading": value} for value in (5, "much", [1], True)),
    *({"reading": {"used_bytes": value}} for value in ("5", -1, 2**63, HUGE, 1e3, True, [])),
    *({"reading": {"memory_bytes": value}} for value in ("5", -1, 2**63, HUGE, 1e3, True, [])),
    *({"reading": {"utilization": value}} for value in
      ("much", -0.1, 1.1, HUGE, float("nan"), float("inf"), [], {})),
]  # fmt: skip


async def test_a_lie_is_passed_over_and_the_next_word_is_heard(
    link: AgentLink, agent: FakeAgent, told: list[AgentState], caplog: pytest.LogCaptureFixture
) -> None:
    await agent.hear()
    for number, lie in enumerate(LIES):
        before = len(caplog.records)
        await agent.tell(**lie)
        await agent.tell(run=f"r{number}")
        await eventually(lambda n=number: link.state and link.state.run == f"r{n}", f"after {lie}")
        said = [record.message for record in caplog.records[before:]]
        assert said == ["A message of a kernel's agent could not be understood"], lie
    assert told == [AgentState(run=f"r{number}") for number in range(len(LIES))]


FRAMES: list[list[bytes]] = [
    [],
    [b""],
    [b"", b""],
    [b"x", b"y", b"z"],
    *([sign(payload), payload] for payload in (
        b"", b"{", b"null", b"5", b"[]", b'"state"', b"{}", b"\xff", b"[" * 100_000,
        b'{"op": "state"}', b'{"op": "state", "run": null, "pid": null, "exit": null}',
        b'{"a": ' * 100_000, b"1" * 5000,
    )),
    [sign(b'{"op": "refused"}', b"another key"), b'{"op": "refused"}'],
    [sign(b'{"op": "refused"}').upper(), b'{"op": "refused"}'],
    [b"\xff" * 64, json.dumps(NOTHING | {"run": "lie"}).encode()],
]  # fmt: skip


async def test_what_no_agent_says_is_passed_over(
    link: AgentLink, agent: FakeAgent, told: list[AgentState]
) -> None:
    await agent.hear()
    for frames in FRAMES:
        await agent.socket.send_multipart([agent.peer, *(frames or [b""])])
    await agent.tell(run="truth")
    await eventually(lambda: link.state, "the truth is heard")
    assert told == [AgentState(run="truth")]
    assert (await link.greet()).run == "truth", "nobody was refused"


async def test_a_message_that_is_too_long_costs_one_connection(
    link_with: Callable[..., AgentLink], agent: FakeAgent, told: list[AgentState]
) -> None:
    link = link_with(renewal=0.05)
    await agent.hear()
    await agent.tell(run="x" * 2**20)
    first = agent.peer
    while (await agent.hear()) and agent.peer == first:
        pass
    await agent.tell(run="r1", pid=5)
    await eventually(lambda: link.state and link.state.run == "r1", "it hears again")
    assert told == [AgentState(run="r1", pid=5)]


async def test_whoever_is_told_may_fail_and_the_link_goes_on(
    link_with: Callable[..., AgentLink], agent: FakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: AgentState) -> None:
        raise RuntimeError(f"at {state.run}")

    link = link_with(changed=fail)
    await agent.hear()
    for run in ("r1", "r2"):
        await agent.tell(run=run, pid=5)
        await eventually(lambda run=run: link.state and link.state.run == run, "it is taken")
    await eventually(lambda: len(caplog.records) == 2, "both failures are logged")
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "at r1",
        "at r2",
    ]


async def test_the_first_sign_of_life_names_who_is_replaced(
    context: zmq.asyncio.Context, agent: FakeAgent
) -> None:
    connection = Connection(transport="tcp", ip="127.0.0.1", ports={}, key=KEY)
    link = AgentLink(connection, agent.port, instance="b", renewal=60.0, changed=lambda state: None)
    link.open(context, "a")
    try:
        assert (await agent.hear())["replaces"] == "a", "or the agent would turn it away"
    finally:
        await link.close()
