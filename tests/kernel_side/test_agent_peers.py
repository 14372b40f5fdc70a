"""To whom an agent listens: to the server that owns the pod, and to nobody without the keys."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from agents import ARGV, KEY, Peer, Pod, run
from processes import alive
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._link import Owned

pytestmark = pytest.mark.slow

# -- owners ------------------------------------------------------------------------------------


async def test_another_server_is_refused_while_the_owner_is_alive(pod: Pod) -> None:
    pod.boot()
    owner = pod.link("a")
    state = await owner.start("r1", ARGV, {}, None)
    other = pod.link("b")
    with pytest.raises(Owned):
        await other.greet()
    with pytest.raises(Owned):
        await other.start("r2", ARGV, {}, None)
    peer = pod.peer()
    for op in ("signal", "end", "quit", "renew", "nonsense"):
        await peer.say(op, instance="b", signum=9, replaces="c")
        assert await peer.heard() == {"op": "refused"}
    assert pod.kernels() == {state.pid}
    assert (await owner.start("r1", ARGV, {}, None)).pid == state.pid


async def test_an_owner_that_missed_three_renewals_is_replaced_and_not_earlier(pod: Pod) -> None:
    pod.boot()
    owner, other = pod.peer(), pod.peer()
    loop = asyncio.get_running_loop()
    said = loop.time()
    await owner.say("renew", instance="a", renewal=0.6)
    await owner.heard()
    answers = []
    while not answers or answers[-1]["op"] == "refused":
        await other.say("renew", instance="b", renewal=60.0)
        answers.append(await other.heard())
        await asyncio.sleep(0.05)
    assert loop.time() - said >= 3 * 0.6
    assert len(answers) > 1, "it was refused at first"
    # The one that comes back finds that it is owner no more.
    await owner.say("end", instance="a")
    assert await owner.heard() == {"op": "refused"}


async def test_the_successor_of_a_server_that_is_known_to_be_gone_is_let_in_at_once(
    pod: Pod,
) -> None:
    pod.boot()
    old = pod.link("a", renewal=60.0)
    state = await old.start("r1", ARGV, {}, None)
    await run(await pod.ready(), "x = 41")
    new = pod.link("b", replaces="a")
    told = await new.greet()
    assert (told.run, told.pid) == (state.run, state.pid)  # what it uses may have been read by now
    assert await run(await pod.ready(), "print(x + 1)") == "42"
    with pytest.raises(Owned):
        await old.start("r2", ARGV, {}, None)
    # That it once replaced somebody gives nobody the right to replace it.
    with pytest.raises(Owned):
        await pod.link("c", replaces="a").greet()
    assert (await new.start("r3", ARGV, {}, None)).run == "r3"


async def test_how_things_stand_is_told_again_to_who_missed_it(pod: Pod) -> None:
    """A server asks for a start and is gone before the answer; it comes back and asks again."""
    pod.boot()
    hasty = pod.peer()
    await hasty.say("start", run="r1", argv=ARGV, env={}, cwd=None)
    await eventually(lambda: len(pod.kernels()) == 1, "the kernel runs")
    hasty.close()
    (kernel,) = pod.kernels()
    link = pod.link()
    assert (await link.start("r1", ARGV, {}, None)).pid == kernel
    assert pod.kernels() == {kernel}
    await link.close()
    (await pod.ready()).execute("import os; os._exit(4)")
    await eventually(lambda: not pod.kernels(), "the kernel ends, and nobody hears it")
    link = pod.link()

    async def told() -> bool:
        """The agent knows of the end once it has waited for the process."""
        return (await link.start("r1", ARGV, {}, None)).exit_code == 4

    await eventually(told, "it is told")


async def test_every_word_of_the_owner_is_answered(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    for op in ("renew", "end", "nonsense", "renew"):
        await peer.say(op)
        told = await peer.heard()
        nothing = {"op": "state", "run": None, "pid": None, "exit": None, "reading": None}
        unparked = {"parking": None, "parked": False, "park_why": ""}
        assert told == nothing | unparked | {"leaving": False}


# -- those who do not have the keys ------------------------------------------------------------


async def expect_silence(pod: Pod, peer: Peer) -> None:
    """Nothing that ``peer`` said was answered, as two words on its own connection show."""
    peer.key = KEY
    await peer.say("renew")
    await peer.say("renew", instance="b")
    assert (await peer.heard())["run"] is None
    assert await peer.heard() == {"op": "refused"}


async def test_what_is_not_signed_with_the_key_is_not_answered(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer(key=b"wrong")
    await peer.say("start", run="evil", argv=ARGV, env={}, cwd=None)
    await peer.say("quit")
    good = json.dumps({"op": "quit", "instance": "a", "renewal": 5.0}).encode()
    for frames in ([], [b""], [good], [b"", good], [b"", b"", good], [good, b""], [b"\xff", good]):
        if frames:
            await peer.socket.send_multipart(frames)
    await expect_silence(pod, peer)
    assert alive(pod.pid())


@pytest.mark.parametrize("encrypt", [True, False], ids=["another key", "no key"])
async def test_without_the_curve_key_nobody_gets_as_far_as_to_speak(
    encrypt: bool, pod: Pod
) -> None:
    pod.boot()
    stranger = pod.peer(public=zmq.curve_keypair()[0].decode(), encrypt=encrypt)
    await stranger.say("quit")
    failed = {zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, zmq.Event.HANDSHAKE_FAILED_PROTOCOL}
    assert await stranger.meets(*failed, zmq.Event.HANDSHAKE_SUCCEEDED) in failed
    friend = pod.peer()
    await friend.say("renew")
    await friend.heard()
    assert alive(pod.pid())


#: Signed, so it is looked at.
MALFORMED: list[bytes] = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"quit"',
    b"{}",
    b"{" * 10,
    b"[" * 1_000_000,
    b'{"a":' * 200_000,
    b'{"instance": "a"}',
    b'{"instance": "a", "op": "quit"}',
    b'{"instance": "a", "op": "quit", "renewal": "soon"}',
    b'{"instance": "a", "op": "quit", "renewal": null}',
    b'{"instance": "a", "op": "quit", "renewal": 1' + b"0" * 4000 + b"}",
    b'{"instance": "a", "op": "quit", "renewal": 1' + b"0" * 5000 + b"}",
    b'{"op": "quit", "renewal": 1}',
]


async def test_what_cannot_be_understood_is_not_answered(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    for payload in MALFORMED:
        await peer.say_raw(payload)
    await expect_silence(pod, peer)
    assert alive(pod.pid())


@pytest.mark.parametrize("value", [[], {}, True, 7, None, "x" * 100_000, "\ud800"], ids=repr)
async def test_whatever_an_owner_calls_itself_it_is_the_owner(value: Any, pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    await peer.say("renew", instance=value)
    assert (await peer.heard())["op"] == "state"
    await peer.say("renew", instance=value)
    assert (await peer.heard())["op"] == "state"


async def test_a_message_that_is_too_large_ends_its_connection_only(pod: Pod) -> None:
    pod.boot()
    peer = pod.peer()
    await peer.meets(zmq.Event.HANDSHAKE_SUCCEEDED)
    await peer.say_raw(b" " * (2**24 + 1))
    await peer.meets(zmq.Event.DISCONNECTED)
    # Its next words come over a new connection.
    await peer.meets(zmq.Event.HANDSHAKE_SUCCEEDED)
    await peer.say("renew")
    assert (await peer.heard())["op"] == "state"


async def test_an_order_of_a_megabyte_is_carried_out(pod: Pod) -> None:
    """More than any pipe between processes holds at once."""
    pod.boot()
    env = {f"LARGE_{n}": "x" * 100_000 for n in range(8)}
    assert (await pod.link().start("r1", ARGV, env, None)).pid is not None
    code = "import os; print(sum(len(os.environ[f'LARGE_{n}']) for n in range(8)))"
    assert await run(await pod.ready(), code) == "800000"


@pytest.mark.parametrize("encrypt", [True, False], ids=["encrypted", "plain"])
async def test_bytes_that_are_no_zeromq_do_no_harm(
    encrypt: bool, pod_of: Callable[..., Pod]
) -> None:
    pod = pod_of(encrypt=encrypt)
    pod.boot()
    friend = pod.peer()
    await friend.say("renew")
    await friend.heard()
    greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03"
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, b"\xff" * 5000, greeting, greeting * 99):
        with socket.create_connection(("127.0.0.1", pod.port), timeout=10) as stranger:
            stranger.sendall(data)
            await friend.say("renew")
            await friend.heard()
    assert alive(pod.pid())


async def test_a_flood_of_strangers_keeps_no_kernel_from_starting(pod: Pod) -> None:
    pod.boot()
    strangers = [pod.peer(key=b"wrong") for _ in range(3)]

    async def pour(stranger: Peer) -> None:
        while True:
            await stranger.say("quit")
            await asyncio.sleep(0)

    floods = [asyncio.ensure_future(pour(stranger)) for stranger in strangers]
    try:
        link = pod.link()
        state = await link.start("r1", ARGV, {}, None)
        client = await pod.ready()
        assert await run(client, "import os; print(os.getpid())") == str(state.pid)
        client.execute("import os; os._exit(3)")
        await eventually(lambda: link.state and link.state.exit_code == 3, "the end is told")
    finally:
        for flood in floods:
            flood.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
