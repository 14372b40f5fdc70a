"""A kernel that is paused, for a moment or for hours, is connected all the time."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
import zmq
from jupyter_client.blocking import BlockingKernelClient
from kernels import House, Notes, outputs, reply, run
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import HoldMode, Relay
from jupyter_gpu_share.relay._wire import received

CHATTY = """
import threading
def talk():
    n = 0
    while True:
        print(n, flush=True)
        n += 1
threading.Thread(target=talk, daemon=True).start()
"""
COMM = """
from comm import create_comm
from ipykernel.comm import Comm
comm = create_comm(target_name="w", data={})
state = []
def take(message):
    state.append(message["content"]["data"]["value"])
    comm.send({"state": list(state)})
comm.on_msg(take)
"""


def streamed(client: BlockingKernelClient, parent: str) -> str:
    """The next thing that was printed."""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream":
            assert message["parent_header"]["msg_id"] == parent
            return str(message["content"]["text"])


def test_a_kernel_that_never_is_silent_is_heard_and_does_not_hold_up_anybody(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute(CHATTY)
    assert reply(client, sent)["status"] == "ok"
    relay.pause().result(PATIENCE)
    text = streamed(client, sent)
    while text.count("\n") < 5000:  # more than could have been under way
        text += streamed(client, sent)
    # A client that reads too slowly loses some, as always; what it has is in order.
    numbers = [int(line) for line in text.split("\n")[1:-1] if line]
    assert numbers == sorted(numbers)
    assert reply(client, client.complete("x"))["matches"] == []
    assert not relay.count().result(PATIENCE).busy
    relay.detach().result(PATIENCE)
    assert not relay.attached


async def test_detaching_waits_for_no_silence(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay)
    ending = threading.Event()

    def talk() -> None:
        while not ending.is_set():
            kernel.publish("stream", {"name": "stdout", "text": "."}, {})

    kernel.do(talk)
    try:
        relay.pause().result(PATIENCE)
        assert not relay.count().result(PATIENCE).busy
        relay.detach().result(PATIENCE / 3)  # ten times as long as it may take
        assert not relay.attached
    finally:
        ending.set()


def test_one_who_never_is_silent_leaves_others_their_turn() -> None:
    ends = [zmq.Context.instance().socket(zmq.PAIR) for _ in range(2)]
    ends[0].bind("inproc://never-silent")
    ends[1].connect("inproc://never-silent")
    for number in range(500):
        ends[0].send(str(number).encode())
    assert [len(list(received(ends[1], 200))) for _ in range(3)] == [200, 200, 100]
    for end in ends:
        end.close(linger=0)


async def test_what_a_kernel_says_while_it_is_paused_arrives_on_every_channel(
    house: House,
) -> None:
    relay = house.relay()
    kernel = house.fake(relay)
    client = house.client(relay)
    later: list[Any] = []
    kernel.on["execute_request"] = lambda *request: later.append(request)
    sent = client.execute("1")
    await eventually(lambda: later, "the cell is there")
    relay.hold(HoldMode.WAITING)
    assert relay.pause().result(PATIENCE).busy
    channel, idents, message = later[0]

    def say() -> None:
        kernel.publish("stream", {"name": "stdout", "text": "out"}, message["header"])
        kernel.session.send(
            kernel.sockets["stdin"], "input_request", {"prompt": "?"}, message, ident=idents
        )

    kernel.do(say)
    assert streamed(client, sent) == "out"
    assert client.get_stdin_msg(timeout=PATIENCE)["content"]["prompt"] == "?"
    client.input("typed")
    await eventually(lambda: kernel.types("stdin") == ["input_reply"], "the input is there")
    kernel.do(lambda: kernel.reply(channel, idents, message))
    assert reply(client, sent)["status"] == "ok"
    assert relay.count().result(PATIENCE).cells_done == 1


async def test_a_parent_header_that_is_null_does_no_harm(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    client = house.client(relay)
    reply(client, client.comm_info())
    kernel.do(lambda: kernel.publish("status", {"execution_state": "starting"}, None))
    while client.get_iopub_msg(timeout=PATIENCE)["content"].get("execution_state") != "starting":
        pass
    assert not caplog.records


async def test_widgets_live_over_a_pause(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    run(client, COMM)
    comms = reply(client, client.comm_info())["comms"]
    assert list(comms.values()) == [{"target_name": "w"}]
    relay.hold(HoldMode.WAITING)
    relay.pause().result(PATIENCE)
    # A page that is loaded again sees the same.
    again = house.client(relay)
    again.wait_for_ready(timeout=PATIENCE)
    assert reply(again, again.comm_info())["comms"] == comms
    for value in (1, 2):
        content = {"comm_id": next(iter(comms)), "data": {"value": value}}
        client.shell_channel.send(client.session.msg("comm_msg", content))
    await eventually(lambda: relay.held == 2, "the widget waits")
    assert notes.told == [("wanted", 0)] * 2
    relay.resume().result(PATIENCE)
    states: list[Any] = []
    while len(states) < 2:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "comm_msg":
            states.append(message["content"]["data"]["state"])
    assert states == [[1], [1, 2]]


def test_a_page_that_is_closed_does_not_take_the_output_with_it(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    asked = client.kernel_info()
    # It subscribes before there is a kernel.
    client.get_iopub_msg(timeout=PATIENCE)
    kernel = house.fake(relay)
    reply(client, asked)
    client.stop_channels()
    house.clients.remove(client)

    def answer(channel: str, idents: list[bytes], message: dict[str, Any]) -> None:
        kernel.publish("gpu_share_answer", {"result": 3}, message["header"])
        kernel.reply(channel, idents, message)
        kernel.status("idle", message["header"])

    kernel.on["execute_request"] = answer
    for _ in range(3):
        relay.pause().result(PATIENCE)
        assert relay.ask("1 + 2").result(PATIENCE).result == 3
        relay.resume().result(PATIENCE)
        client = house.client(relay)
        reply(client, client.kernel_info())
        client.stop_channels()
        house.clients.remove(client)


async def test_a_kernel_that_reads_nothing_holds_up_nobody(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel()
    relay.attach(kernel.connection, paused=True).result(PATIENCE)
    client = house.client(relay)
    sent = [client.execute("1") for _ in range(900)]
    await eventually(lambda: relay.held == len(sent), "all are held")
    os.kill(kernel.process.pid, signal.SIGSTOP)
    relay.resume().result(PATIENCE)
    # More than fit into sockets with the usual bounds.
    sent += [client.execute("1") for _ in range(6000)]
    await eventually(
        lambda: relay.count().result(PATIENCE).pending_cells == len(sent), "all have passed"
    )
    relay.pause().result(PATIENCE)
    relay.resume().result(PATIENCE)
    relay.detach().result(PATIENCE)


# -- use -------------------------------------------------------------------------------------


def counted(relay: Relay) -> tuple[int, int, int]:
    found = relay.count().result(PATIENCE)
    return found.pending_cells, found.cells_sent, found.cells_done


async def test_a_cell_of_a_moment_is_use(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    house.fake(relay)
    client = house.client(relay)
    begun = time.monotonic()
    for number in range(1, 21):
        reply(client, client.execute("1"))
        # What was answered has passed: to the last message, and without waiting for a look.
        assert counted(relay) == (0, number, number)
    told = notes.activities[-1]
    assert (told.cells_sent, told.cells_done, told.busy) == (20, 20, False)
    assert told.last_sent is not None
    assert told.last_done is not None
    assert begun < told.last_sent <= told.last_done < time.monotonic()
    assert told.last_sent_at is not None
    assert told.last_sent_at.tzinfo is not None
    assert told.last_cell_at == told.last_done_at


async def test_a_cell_between_two_looks_is_told_although_none_was_pending(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    house.fake(relay)
    client = house.client(relay)
    for number in range(1, 6):
        reply(client, client.execute("1"))
        await eventually(
            lambda: notes.activities and notes.activities[-1].cells_done == number,  # noqa: B023
            "the cell is told",
        )
    assert notes.activities[-1].cells_sent == 5


async def test_asking_about_a_kernel_is_no_use_of_it(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    house.fake(relay)
    client = house.client(relay)
    for ask in (client.kernel_info, client.comm_info, client.history):
        reply(client, ask())
    assert counted(relay) == (0, 0, 0)
    assert notes.activities == []


@pytest.mark.slow
async def test_a_pause_knows_every_cell_that_passed(house: House) -> None:
    relay = house.relay()
    house.fake(relay)
    client = house.client(relay)
    for number in range(1, 301):
        reply(client, client.execute("1"))
        found = relay.pause().result(PATIENCE)
        assert (found.pending_cells, found.cells_sent, found.cells_done) == (0, number, number)
        relay.resume().result(PATIENCE)


# -- what clients keep about a process -------------------------------------------------------


async def test_the_subshells_of_a_process_are_known(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)

    def control(kind: str, **content: Any) -> dict[str, Any]:
        client.control_channel.send(client.session.msg(kind, content))
        return client.get_control_msg(timeout=PATIENCE)["content"]  # type: ignore[no-any-return]

    made = [control("create_subshell_request")["subshell_id"] for _ in range(2)]
    assert relay.subshells == tuple(made)
    relay.pause().result(PATIENCE)
    assert control("delete_subshell_request", subshell_id=made[0])["status"] == "ok"
    assert relay.subshells == (made[1],)
    assert control("delete_subshell_request", subshell_id="none")["status"] == "error"
    assert relay.subshells == (made[1],)
    relay.detach().result(PATIENCE)
    assert relay.subshells == (made[1],)
    house.kernel(relay)
    assert relay.subshells == ()
    relay.note_subshells(made).result(PATIENCE)
    assert relay.subshells == tuple(made)


async def test_a_line_is_shown_above_what_the_first_cell_prints(house: House) -> None:
    relay = house.relay()
    house.fake(relay, paused=True)
    client = house.client(relay)
    subscribe(client)
    sent = client.execute("1")
    await eventually(lambda: relay.held == 1, "the cell is held")
    relay.resume("It is back.").result(PATIENCE)
    assert reply(client, sent)["status"] == "ok"
    shown = outputs(client, sent)
    assert [kind for kind, _ in shown] == ["stream", "status", "status"]
    assert shown[0][1]["text"] == "It is back.\n"


def subscribe(client: BlockingKernelClient) -> None:
    """Wait until what is published reaches a client: a message before that is lost to it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        client.complete("x")
        with suppress(Empty):
            client.get_iopub_msg(timeout=0.2)
            return
    raise AssertionError("nothing that is published arrives")


def test_there_is_nothing_to_resume_where_nothing_is_paused(house: House) -> None:
    relay = house.relay()
    relay.resume().result(PATIENCE)
    house.fake(relay)
    relay.resume().result(PATIENCE)
    assert relay.attached
