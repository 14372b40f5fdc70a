"""What a kernel was asked and has not answered when it is gone: the relay answers."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from kernels import House, reply
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import HoldMode, Relay
from jupyter_gpu_share.relay._traffic import _MOST_QUESTIONS

Sent = tuple[str, str]


def ask(client: BlockingKernelClient, kind: str, channel: str) -> Sent:
    """Ask something; channel and id."""
    message = client.session.msg(kind, {})
    getattr(client, f"{channel}_channel").send(message)
    return channel, message["header"]["msg_id"]


def answer(client: BlockingKernelClient, sent: Sent) -> dict[str, Any]:
    """The content of the reply."""
    channel, msg_id = sent
    while True:
        found = getattr(client, f"get_{channel}_msg")(timeout=PATIENCE)
        if found["parent_header"].get("msg_id") == msg_id:
            return dict(found["content"])


@pytest.fixture
def relay(house: House) -> Relay:
    return house.relay()


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize(
    ("kind", "channel", "status"),
    [
        ("usage_request", "control", "error"),
        ("debug_request", "control", "error"),
        ("list_subshell_request", "control", "error"),
        ("own_request", "shell", "error"),
        ("comm_info_request", "shell", "ok"),
        ("kernel_info_request", "shell", "ok"),
        ("complete_request", "shell", "ok"),
        ("kernel_info_request", "control", "ok"),
    ],
)
async def test_what_was_under_way_is_answered(
    house: House, relay: Relay, paused: bool, kind: str, channel: str, status: str
) -> None:
    kernel = house.fake(relay)
    kernel.on[kind] = lambda *_: None
    client = house.client(relay)
    if paused:
        relay.pause().result(PATIENCE)
    sent = ask(client, kind, channel)
    if paused and kind in ("own_request", "complete_request", "kernel_info_request"):
        assert answer(client, sent)["status"] in ("ok", "error"), "the relay answers it at once"
        return
    await eventually(lambda: kind in kernel.types(channel), "the kernel has it")
    relay.hold(HoldMode.WAITING, "It waits.")
    relay.detach().result(PATIENCE)
    found = answer(client, sent)
    assert found["status"] == status
    if status == "error":
        assert "run a cell to bring it back" in found["evalue"]


async def test_nothing_is_answered_twice(house: House, relay: Relay) -> None:
    kernel = house.fake(relay)
    client = house.client(relay)
    for kind, channel in (("usage_request", "control"), ("comm_info_request", "shell")):
        assert answer(client, ask(client, kind, channel))["by"] == "the kernel"
    relay.detach().result(PATIENCE)
    relay.hold(HoldMode.WAITING, "")
    for kind, channel in (("usage_request", "control"), ("comm_info_request", "shell")):
        again = ask(client, kind, channel)
        # The next that comes on the channel is of this one.
        found = getattr(client, f"get_{channel}_msg")(timeout=PATIENCE)
        assert found["parent_header"]["msg_id"] == again[1]
    assert kernel.types("control") == ["usage_request"]


async def test_a_question_of_one_process_is_none_of_the_next(house: House, relay: Relay) -> None:
    kernel = house.fake(relay)
    kernel.on["usage_request"] = lambda *_: None
    client = house.client(relay)
    sent = ask(client, "usage_request", "control")
    await eventually(lambda: kernel.types("control"), "the kernel has it")
    relay.detach().result(PATIENCE)
    assert answer(client, sent)["status"] == "error"
    house.fake(relay)
    assert reply(client, client.execute("1"))["status"] == "ok"
    relay.detach().result(PATIENCE)
    again = ask(client, "usage_request", "control")
    found = client.get_control_msg(timeout=PATIENCE)
    assert found["parent_header"]["msg_id"] == again[1]


async def test_no_more_than_some_are_remembered(house: House, relay: Relay) -> None:
    kernel = house.fake(relay)
    kernel.on["usage_request"] = lambda *_: None
    client = house.client(relay)
    sent = [ask(client, "usage_request", "control") for _ in range(_MOST_QUESTIONS + 5)]
    await eventually(lambda: len(kernel.types("control")) == len(sent), "the kernel has them")
    relay.detach().result(PATIENCE)
    assert answer(client, sent[-1])["status"] == "error"
