"""What is held is bounded by kind, and who hits a bound is told."""

from __future__ import annotations

import random
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from kernels import House, Notes, outputs, reply
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import Bound, HeldLimits, HoldMode
from jupyter_gpu_share.relay._held import Held, HeldMessages

ROOM = Bound(2, 100)


def held(kind: str, size: int = 10, **header: Any) -> Held:
    return Held("shell", [bytes(size)], [], {"msg_type": kind, **header})


def send(client: BlockingKernelClient, kind: str, size: int = 0, channel: str = "shell") -> str:
    """Send something of a widget, with a buffer."""
    message = client.session.msg(kind, {"comm_id": "w", "target_name": "t", "data": {}})
    if not size:
        getattr(client, f"{channel}_channel").send(message)
    else:
        client.session.send(client.shell_channel.socket, message, buffers=[bytes(size)])
    return str(message["header"]["msg_id"])


def lines(client: BlockingKernelClient, parent: str, number: int) -> list[str]:
    """The next lines that were shown under a cell."""
    found: list[str] = []
    while len(found) < number:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream":
            assert message["parent_header"]["msg_id"] == parent
            found.append(message["content"]["text"].strip())
    return found


# -- the messages ----------------------------------------------------------------------------


def test_each_kind_has_its_own_room() -> None:
    waiting = HeldMessages(HeldLimits(ROOM, ROOM, ROOM))
    for kind in ("execute_request", "comm_msg", "history_request"):
        assert [waiting.add(held(kind)) for _ in range(2)] == [[], []]
    assert len(waiting) == 6
    assert waiting.wanting == 4
    for kind in ("execute_request", "comm_msg"):
        one = held(kind)
        assert waiting.add(one) == [one]


def test_of_requests_the_oldest_go() -> None:
    waiting = HeldMessages(HeldLimits(ROOM, ROOM, ROOM))
    cell = held("execute_request")
    waiting.add(cell)
    asked = [held("history_request", 40) for _ in range(4)]
    gone = [waiting.add(one) for one in asked]
    assert gone == [[], [], [asked[0]], [asked[1]]]
    assert list(waiting) == [cell, *asked[2:]]
    too_large = held("history_request", 101)
    assert waiting.add(too_large) == [*asked[2:], too_large]
    assert list(waiting) == [cell]


@pytest.mark.parametrize("kind", ["execute_request", "comm_msg", "history_request"])
def test_one_message_may_be_as_large_as_all(kind: str) -> None:
    waiting = HeldMessages(HeldLimits(ROOM, ROOM, ROOM))
    assert waiting.add(held(kind, 100)) == []


def test_the_counts_are_those_of_what_is_held() -> None:
    draw = random.Random(4)
    limits = HeldLimits(Bound(5, 200), Bound(4, 300), Bound(3, 100))
    waiting = HeldMessages(limits)
    for _ in range(3000):
        step = draw.random()
        if step < 0.02:
            waiting.take()
        elif step < 0.04:
            waiting.put([each for each in waiting if draw.random() < 0.5])
        else:
            kind = draw.choice(["execute_request", "comm_msg", "history_request"])
            before, one = list(waiting), held(kind, draw.randint(0, 120))
            gone = waiting.add(one)
            expected = [each for each in [*before, one] if each not in gone]
            assert list(waiting) == expected
        now = list(waiting)
        assert waiting.wanting == sum(each.wants for each in now)
        for each in now:
            same = [other for other in now if other.kind is each.kind]
            assert len(same) <= limits.of(each.kind).messages
            assert sum(other.size for other in same) <= limits.of(each.kind).bytes


# -- the relay -------------------------------------------------------------------------------


async def test_questions_about_a_kernel_leave_room_for_cells(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    client = house.client(relay)
    relay.hold(HoldMode.WAITING)
    asked = [send(client, "usage_request", channel="control") for _ in range(2000)]
    answers = [client.get_control_msg(timeout=PATIENCE) for _ in asked]
    assert [each["parent_header"]["msg_id"] for each in answers] == asked
    assert {each["content"]["status"] for each in answers} == {"error"}
    assert notes.told == []
    cell = client.execute("print('ran')")
    await eventually(lambda: notes.told == [("wanted", 0)], "the cell is held and told")
    kernel = house.fake(relay)
    assert reply(client, cell)["status"] == "ok"
    assert kernel.types("control") == []


async def test_questions_that_are_held_are_answered_when_there_are_too_many(house: House) -> None:
    relay = house.relay(limits=HeldLimits(others=Bound(2, 2**20)))
    client = house.client(relay)
    asked = [client.comm_info() for _ in range(4)]
    assert [reply(client, one)["comms"] for one in asked[:2]] == [{}, {}]
    house.fake(relay)
    assert [reply(client, one)["by"] for one in asked[2:]] == ["the kernel"] * 2


async def test_a_large_change_of_a_widget_is_held(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    send(client, "comm_msg", 65 * 2**20)
    await eventually(lambda: relay.held == 1, "it is held")
    kernel = house.fake(relay)
    await eventually(lambda: kernel.types("shell") == ["comm_msg"], "it has arrived")
    _, message = kernel.got[-1]
    assert [len(buffer) for buffer in message["buffers"]] == [65 * 2**20]


async def test_changes_of_widgets_above_the_bound_are_told_in_one_line(house: House) -> None:
    relay = house.relay(limits=HeldLimits(comms=Bound(2, 2**20)))
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    cell = client.execute("1")
    for _ in range(5):
        send(client, "comm_msg")
    (line,) = lines(client, cell, 1)
    assert line == (
        "3 changes of widgets were dropped: too much already waits for the GPU (limit: 2 messages "
        "or 1 MiB). The page and the kernel may differ."
    )
    assert relay.held == 3


async def test_what_is_dropped_one_by_one_is_one_line_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was counted until then is told before what is discarded.
    monkeypatch.setattr("jupyter_gpu_share.relay._clients._ONE_LINE", 1e5)
    relay = house.relay(limits=HeldLimits(comms=Bound(2, 2**20)))
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    cell = client.execute("1")
    for _ in range(5):
        send(client, "comm_msg")
        reply(client, client.complete("x"))
    assert relay.discard("KernelShutdown", "shut down").result(PATIENCE) == 3
    above, discarded = lines(client, cell, 2)
    assert above.startswith("3 changes of widgets were dropped: too much")
    assert discarded == ("2 changes of widgets were dropped; the page and the kernel may differ.")


async def test_an_interrupt_clears_all_that_is_held_and_says_so(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    info, comms, cell = client.kernel_info(), client.comm_info(), client.execute("1")
    send(client, "comm_msg")
    await eventually(lambda: relay.held == 2, "both are held")
    assert relay.discard("KeyboardInterrupt", "given up").result(PATIENCE) == 2
    assert reply(client, info)["implementation"] == "gpu-share"
    assert reply(client, comms)["comms"] == {}
    assert reply(client, cell)["ename"] == "KeyboardInterrupt"
    assert lines(client, cell, 1) == [
        "1 change of a widget was dropped by the interrupt; the page and the kernel may differ."
    ]
    assert relay.held == 0
    kernel = house.fake(relay)
    reply(client, client.kernel_info())
    assert kernel.types("shell") == ["kernel_info_request"]


async def test_a_silent_cell_above_the_bound_shows_nothing(house: House) -> None:
    relay = house.relay(limits=HeldLimits(cells=Bound(0, 0)))
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("1", silent=True)
    assert reply(client, sent)["ename"] == "HeldError"
    assert [kind for kind, _ in outputs(client, sent)] == ["status"]
