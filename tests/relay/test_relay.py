"""The relay between real clients and real kernels."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from kernels import KEY, House, Notes, outputs, reply, run
from waiting import PATIENCE, eventually

from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.relay import Bound, HeldLimits, HoldMode, Relay

# -- while a kernel is there -----------------------------------------------------------------


def test_everything_passes(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    assert run(client, "print(6 * 7)") == "42"
    assert run(client, "print(input())", lambda _: client.input("typed")) == "typed"
    assert reply(client, client.complete("impor"))["matches"] == ["import"]
    assert client.is_alive()
    assert relay.kernel_info is not None
    assert relay.kernel_info["language_info"]["name"] == "python"


def test_a_large_buffer_passes(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    code = "from comm import create_comm; create_comm(target_name='t', buffers=[bytes(2**26)])"
    sent = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "comm_open":
            break
    assert [len(buffer) for buffer in message["buffers"]] == [2**26]
    assert reply(client, sent)["status"] == "ok"


def test_the_control_channel_reaches_a_busy_kernel(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    # An interrupt that comes before the cell's own code runs is lost in ipykernel.
    sent = client.execute("import time\nprint('on', flush=True)\nwhile True: time.sleep(0.01)")
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream":
            break
    client.control_channel.send(client.session.msg("interrupt_request", {}))
    assert reply(client, sent)["ename"] == "KeyboardInterrupt"


@pytest.mark.slow
def test_clients_stay_while_kernels_come_and_go(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    addresses = dict(relay.connection.ports)
    pids = set()
    for _ in range(3):
        kernel = house.kernel(relay)
        client.wait_for_ready(timeout=PATIENCE)
        pids.add(run(client, "import os; print(os.getpid())"))
        # Input needs the shell and stdin of the same kernel to be known under one name.
        assert run(client, "print(input())", lambda _: client.input("x")) == "x"
        relay.detach().result(PATIENCE)
        kernel.kill()
    assert len(pids) == 3
    assert dict(relay.connection.ports) == addresses


@pytest.mark.slow
def test_the_last_words_of_a_kernel_arrive(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("for n in range(2000): print(n, flush=True)\nexit()")
    kernel.process.wait(PATIENCE)
    relay.detach().result(PATIENCE)
    lines = 0
    while lines < 2000:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == sent:
            lines += message["content"]["text"].count("\n")


def test_a_notice_is_shown_with_a_kernel_and_without(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("1")
    reply(client, sent)
    for text in ("nearly full", "still full"):
        relay.notify(text)
        while True:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "stream":
                break
        assert message["content"] == {"name": "stderr", "text": f"{text}\n"}
        assert message["parent_header"]["msg_id"] == sent
        relay.detach().result(PATIENCE)
        kernel.kill()


def test_a_notice_before_any_cell_waits_for_the_first(house: House) -> None:
    """Clients show nothing that comes of no cell."""
    relay = house.relay()
    kernel = house.kernel()
    relay.notify("nothing limits it")
    relay.attach(kernel.connection, paused=True).result(PATIENCE)
    relay.resume("all is back").result(PATIENCE)
    relay.notify("it is full")
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("1")
    shown = ""
    while shown.count("\n") < 3:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream":
            assert message["parent_header"]["msg_id"] == sent
            shown += message["content"]["text"]
    assert shown == "nothing limits it\nall is back\nit is full\n"


async def test_a_notice_before_any_cell_is_shown_above_what_a_held_one_prints(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel()
    relay.notify("nothing limits it")
    client = house.client(relay)
    relay.attach(kernel.connection, paused=True).result(PATIENCE)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("print('mine')")
    await eventually(lambda: relay.held == 1, "the cell waits")
    relay.resume().result(PATIENCE)
    shown = [content["text"] for kind, content in outputs(client, sent) if kind == "stream"]
    assert shown == ["nothing limits it\n", "mine\n"]


# -- while none is there ---------------------------------------------------------------------


def test_clients_are_ready_while_the_kernel_waits(house: House) -> None:
    info = {"status": "ok", "protocol_version": "5.3", "implementation": "remembered"}
    relay = house.relay(kernel_info=info)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    assert reply(client, client.kernel_info())["implementation"] == "remembered"
    assert reply(client, client.complete("impor"))["matches"] == []
    assert reply(client, client.inspect("x"))["found"] is False
    assert reply(client, client.is_complete("x"))["status"] == "unknown"
    assert reply(client, client.history())["history"] == []
    assert reply(client, client.comm_info())["comms"] == {}
    assert client.is_alive()
    assert relay.held == 0


async def test_asyncio_clients_are_ready_too(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    blocking = house.client(relay)
    client = AsyncKernelClient()
    client.load_connection_info(blocking.get_connection_info())
    client.start_channels()
    await asyncio.wait_for(client.wait_for_ready(timeout=PATIENCE), PATIENCE)
    client.stop_channels()


async def test_held_cells_run_once_and_in_order(house: House, tmp_path: Path) -> None:
    notes, marks = Notes(), tmp_path / "marks"
    relay = house.relay(events=notes)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    sent = [
        client.execute(f"with open({str(marks)!r}, 'a') as f: f.write('{n} ')") for n in range(20)
    ]
    await eventually(lambda: relay.held == 20, "all are held")
    await eventually(lambda: notes.told.count(("wanted", 0)) == 20, "each is told")
    assert relay.activity.pending_cells == 20
    house.kernel(relay)
    assert [reply(client, one)["status"] for one in sent] == ["ok"] * 20
    assert marks.read_text().split() == [str(n) for n in range(20)]
    await eventually(lambda: relay.activity.pending_cells == 0, "all are counted as done")
    assert relay.activity.cells_done == 20


async def test_a_comm_that_pages_open_by_themselves_is_held_and_wakes_nobody(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)

    def send(kind: str, **content: Any) -> None:
        client.shell_channel.send(client.session.msg(kind, {"data": {}, **content}))

    send("comm_open", comm_id="page", target_name="jupyter.widget.control")
    send("comm_msg", comm_id="page")
    assert reply(client, client.complete("a"))["matches"] == []  # both have arrived
    assert notes.told == []
    assert relay.held == 0
    send("comm_open", comm_id="widget", target_name="jupyter.widget")
    send("comm_msg", comm_id="widget")
    await eventually(lambda: relay.held == 2, "a widget asks for the kernel")
    assert notes.told.count(("wanted", 0)) == 2
    house.kernel(relay)
    # What was held was handed on: the kernel has no such targets, and closes both comms.
    closed = []
    while len(closed) < 2:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "comm_close":
            closed.append(message["content"]["comm_id"])
    assert closed == ["page", "widget"]


async def test_what_a_cell_waits_for_is_shown_and_taken_away(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING, "1st of 2")
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = client.execute("print('ran')")
    await eventually(lambda: relay.held == 1, "the cell is held")
    relay.hold(HoldMode.WAITING, "1st of 1")
    house.kernel(relay)
    shown = outputs(client, sent)
    kinds = [kind for kind, _ in shown]
    assert kinds[:4] == ["status", "display_data", "update_display_data", "clear_output"]
    assert shown[1][1]["data"] == {"text/plain": "1st of 2"}
    assert shown[2][1]["data"] == {"text/plain": "1st of 1"}
    assert shown[1][1]["transient"] == shown[2][1]["transient"]
    assert kinds[4:] == ["status", "execute_input", "stream", "status"]


async def test_a_kernel_about_to_start_answers_by_itself(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    asked = client.kernel_info()
    house.kernel(relay)
    assert reply(client, asked)["implementation"] == "ipython"


async def test_waiting_after_all_answers_what_was_held(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    asked, cell = client.kernel_info(), client.execute("1")
    await eventually(lambda: relay.held == 1, "the cell is held")
    relay.hold(HoldMode.WAITING, "in the queue")
    assert reply(client, asked)["implementation"] == "gpu-share"
    kinds = [client.get_iopub_msg(timeout=PATIENCE) for _ in range(5)]
    shown = [m for m in kinds if m["parent_header"].get("msg_id") == cell]
    assert {"display_data"} <= {message["msg_type"] for message in shown}


@pytest.mark.parametrize(
    ("limits", "cells", "code"),
    [
        (HeldLimits(cells=Bound(3, 2**20)), 5, "1"),
        (HeldLimits(cells=Bound(1000, 20_000)), 5, "#" * 6000),
    ],
)
async def test_the_bound_is_kept_and_the_sender_told(
    house: House, limits: HeldLimits, cells: int, code: str
) -> None:
    relay = house.relay(limits=limits)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = [client.execute(code) for _ in range(cells)]
    refused = [reply(client, one) for one in sent[3:]]
    assert relay.held == 3
    assert {one["ename"] for one in refused} == {"HeldError"}
    assert refused[0]["evalue"] == (
        f"This cell was not sent: too much already waits for the GPU (limit: {limits.cells}). "
        "Interrupt the kernel to drop what waits, then run the cell again."
    )
    assert [kind for kind, _ in outputs(client, sent[3])] == ["error", "status"]
    house.kernel(relay)
    assert [reply(client, one)["status"] for one in sent[:3]] == ["ok"] * 3


async def test_discarding_answers_everybody(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    sent = [client.execute("1") for _ in range(3)]
    await eventually(lambda: relay.held == 3, "all are held")
    assert relay.discard("KeyboardInterrupt", "given up").result(PATIENCE) == 3
    assert [reply(client, one)["ename"] for one in sent] == ["KeyboardInterrupt"] * 3
    assert relay.held == 0
    assert not relay.activity.busy


async def test_interrupt_and_shutdown_are_passed_to_the_owner(house: House) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.control_channel.send(client.session.msg("interrupt_request", {}))
    assert client.get_control_msg(timeout=PATIENCE)["msg_type"] == "interrupt_reply"
    client.shutdown(restart=True)
    assert client.get_control_msg(timeout=PATIENCE)["content"]["restart"] is True
    await eventually(lambda: len(notes.told) == 2, "the owner is told")
    assert notes.told == ["interrupted", ("shutdown", True)]


async def test_a_wrong_key_is_never_answered_and_never_held(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    stranger = house.client(relay, key="wrong")
    stranger.kernel_info()
    stranger.execute("print('stolen')")
    stranger.control_channel.send(stranger.session.msg("shutdown_request", {"restart": False}))
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    assert relay.held == 0
    assert not relay.activity.busy
    assert not stranger.shell_channel.msg_ready()
    assert not stranger.control_channel.msg_ready()
    house.kernel(relay)
    stranger.execute("print('stolen')")
    run(client, "1")
    await eventually(lambda: relay.activity.cells_done == 1, "the client's cell is counted")
    assert not relay.activity.busy, "a cell that the kernel refuses keeps nobody busy"


def test_nonsense_does_not_end_the_relay(house: House) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(relay.connection.url("shell"))
    draw = random.Random(5)
    for number in range(200):
        socket.send_multipart(
            [draw.randbytes(number), b"<IDS|MSG>"][: 1 + number % 2] * (1 + number % 8)
        )
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    assert relay.held == 0
    socket.close()


# -- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_encryption_on_either_side(house: House, front: bool, back: bool) -> None:
    keys: dict[str, str] = {}
    if front:
        public, secret = zmq.curve_keypair()
        keys = {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
    relay = house.relay(**keys)
    house.kernel(relay, curve=back)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    assert run(client, "print(1)") == "1"
    if front:
        public, secret = zmq.curve_keypair()
        changes = {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
        stranger = house.client(relay, **changes)
        stranger.kernel_info()
        run(client, "1")
        assert not stranger.shell_channel.msg_ready()


@pytest.mark.slow
def test_a_kernel_with_another_curve_key_is_not_met(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel(curve=True)
    public, secret = zmq.curve_keypair()
    from dataclasses import replace

    wrong = replace(
        kernel.connection, curve_publickey=public.decode(), curve_secretkey=secret.decode()
    )
    attaching = relay.attach(wrong)
    with pytest.raises(TimeoutError):
        attaching.result(1.5)
    relay.detach().result(PATIENCE)
    assert attaching.cancelled()


def test_clients_over_ipc_and_files_that_were_removed(house: House) -> None:
    relay = house.relay(transport="ipc", ip=str(house.folder / "front"))
    files = [Path(f"{relay.connection.ip}-{port}") for port in relay.connection.ports.values()]
    assert all(file.exists() for file in files)
    for file in files:
        file.unlink()
    relay.listen_again().result(PATIENCE)
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    relay.close().result(PATIENCE)
    assert not any(file.exists() for file in files)


@pytest.mark.slow
def test_an_address_in_use(house: House) -> None:
    taken = house.relay().connection.ports
    other = Relay(key=KEY)
    with pytest.raises(EngineError, match=r"cannot listen on 127\.0\.0\.1") as caught:
        other.bind(ports=taken)
    assert isinstance(caught.value.__cause__, zmq.ZMQError)
    other.close().result(PATIENCE)


def test_closing_gives_everything_back(house: House) -> None:
    before = threading.active_count()
    relay = house.relay()
    ports = dict(relay.connection.ports)
    house.kernel(relay)
    relay.close().result(PATIENCE)
    relay.close().result(PATIENCE)
    assert threading.active_count() <= before + 1  # the relay's own thread may be on its last line
    again = house.relay(ports=ports)
    assert dict(again.connection.ports) == ports
    assert relay.discard("x", "y").result(PATIENCE) == 0
    assert relay.detach().result(PATIENCE).pending_cells == 0
    assert relay.attach(again.connection).cancelled()


@pytest.mark.slow
async def test_no_file_descriptor_is_lost(house: House) -> None:
    kernel = house.kernel()

    def cycle() -> None:
        relay = house.relay()
        relay.attach(kernel.connection).result(PATIENCE)
        relay.detach().result(PATIENCE)
        relay.attach(kernel.connection).result(PATIENCE)
        relay.close().result(PATIENCE)

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    cycle()
    lowest = await settled(open_files)
    for _ in range(10):
        cycle()
    await eventually(lambda: open_files() <= lowest + 3, "the sockets are closed")


async def settled(reading: Any) -> int:
    """Wait until a number stops changing; sockets are closed by a thread of libzmq's."""
    last = -1
    while (now := reading()) != last:
        last = now
        await asyncio.sleep(0.2)
    return last


@pytest.mark.slow
async def test_random_comings_and_goings_lose_and_double_nothing(
    house: House, tmp_path: Path
) -> None:
    """Cells are sent only while they are held, so each must run exactly once."""
    draw = random.Random(20)
    relay = house.relay()
    client = house.client(relay)
    marks = tmp_path / "marks"
    sent = 0
    for _ in range(6):
        relay.hold(draw.choice(list(HoldMode)), draw.choice(["", "waiting"]))
        number = draw.randint(1, 5)
        for _ in range(number):
            client.execute(f"with open({str(marks)!r}, 'a') as f: f.write('{sent} ')")
            sent += 1
        await eventually(lambda: relay.held == number, "the cells are held")  # noqa: B023
        kernel = house.kernel()
        if draw.random() < 0.4:  # give up in the middle of meeting the kernel
            relay.attach(kernel.connection)
            relay.detach().result(PATIENCE)
        relay.attach(kernel.connection).result(PATIENCE)
        await eventually(lambda: not relay.activity.busy, "the cells are done")
        if draw.random() < 0.5:
            kernel.kill()
            relay.detach().result(PATIENCE)
        else:
            relay.detach().result(PATIENCE)
            kernel.kill()
    assert marks.read_text().split() == [str(n) for n in range(sent)]


@pytest.mark.slow
async def test_a_pause_loses_nothing_of_a_running_cell(house: House) -> None:
    relay = house.relay()
    house.kernel(relay)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    first = client.execute("import time\nprint('one')\ntime.sleep(1)\nprint('two')")
    await eventually(lambda: relay.activity.busy, "the cell runs")
    assert relay.pause().result(PATIENCE).busy
    second = client.execute("print('three')")
    await eventually(lambda: relay.held == 1, "the next cell is held")
    relay.resume().result(PATIENCE)
    texts = [content["text"] for kind, content in outputs(client, first) if kind == "stream"]
    assert "".join(texts) == "one\ntwo\n"
    assert reply(client, first)["status"] == reply(client, second)["status"] == "ok"
    relay.pause().result(PATIENCE)
    relay.detach().result(PATIENCE)
    assert not relay.attached
