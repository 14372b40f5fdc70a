"""The relay itself asks a kernel that is paused; clients see nothing of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeKernel
from kernels import House, outputs, reply, run
from waiting import PATIENCE, eventually

from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.kernel_side import PATH
from jupyter_gpu_share.relay import HoldMode

ENV = {"PYTHONPATH": str(PATH)}


def question(what: str, **arguments: object) -> str:
    return (
        "__import__('gpu_share_kernel.asked', fromlist=['answer'])"
        f".answer({what!r}, **{arguments!r})"
    )


async def test_a_paused_kernel_answers_and_no_client_sees_it(house: House) -> None:
    relay = house.relay()
    house.kernel(relay, env=ENV)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    run(client, "x = 1")
    relay.hold(HoldMode.STARTING)
    relay.pause().result(PATIENCE)
    scratch = relay.ask(question("scratch")).result(PATIENCE).result
    sent = client.execute("print(x, In[-2:], 'answer' in dir())")
    await eventually(lambda: relay.held == 1, "the cell is held")
    data = os.urandom(2**20)
    assert relay.ask(question("append", path=scratch), [data, data]).result(PATIENCE).result == (
        2 * len(data)
    )
    back = relay.ask(question("read", path=scratch, start=2**20, length=2**20)).result(PATIENCE)
    assert back.result == len(data)
    assert b"".join(back.buffers) == data
    relay.ask(question("remove", path=scratch)).result(PATIENCE)
    assert not Path(scratch).exists()
    relay.resume().result(PATIENCE)
    shown = outputs(client, sent)
    assert [kind for kind, _ in shown] == ["status", "execute_input", "stream", "status"]
    assert shown[2][1]["text"] == "1 ['x = 1', \"print(x, In[-2:], 'answer' in dir())\"] False\n"
    assert reply(client, sent)["execution_count"] == 2


def test_what_cannot_be_done_is_an_error_with_its_reason(house: House) -> None:
    relay = house.relay()
    house.kernel(relay, env=ENV)
    with pytest.raises(GpuShareError, match="cannot be asked now"):
        relay.ask(question("scratch")).result(PATIENCE)
    relay.pause().result(PATIENCE)
    with pytest.raises(GpuShareError, match="No such file"):
        relay.ask(question("read", path="/nowhere", start=0, length=1)).result(PATIENCE)
    with pytest.raises(GpuShareError, match="unheard"):
        relay.ask(question("unheard of")).result(PATIENCE)
    with pytest.raises(GpuShareError, match="not defined"):
        relay.ask("no_such_name()").result(PATIENCE)
    assert relay.ask(question("scratch")).result(PATIENCE).result


def test_a_kernel_that_dies_meanwhile_is_an_error(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel(relay, env=ENV)
    relay.pause().result(PATIENCE)
    asked = relay.ask("__import__('time').sleep(600)")
    kernel.kill()
    relay.detach().result(PATIENCE)
    with pytest.raises(GpuShareError, match="gone"):
        asked.result(PATIENCE)


async def test_a_kernel_that_comes_paused_is_asked_before_any_cell(
    house: House, tmp_path: Path
) -> None:
    relay = house.relay()
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    marks = tmp_path / "marks"
    sent = client.execute(f"open({str(marks)!r}, 'a').write('cell ')")
    await eventually(lambda: relay.held == 1, "the cell is held")
    kernel = house.kernel(env=ENV)
    relay.attach(kernel.connection, paused=True).result(PATIENCE)
    assert not relay.attached
    with pytest.raises(GpuShareError, match="no answer"):
        relay.ask(f"open({str(marks)!r}, 'a').write('asked ')").result(PATIENCE)
    relay.resume().result(PATIENCE)
    assert reply(client, sent)["status"] == "ok"
    assert marks.read_text() == "asked cell "


# -- what may come between -------------------------------------------------------------------


def answering(kernel: FakeKernel, *steps: str) -> None:
    """Have a kernel do these steps for each cell."""

    def take(channel: str, idents: list[bytes], message: dict[str, Any]) -> None:
        for step in steps:
            if step in ("busy", "idle"):
                kernel.status(step, message["header"])
            elif step == "reply":
                kernel.reply(channel, idents, message)
            elif step == "answer":
                kernel.publish("gpu_share_answer", {"result": "done"}, message["header"])
            else:
                kernel.publish("stream", {"name": "stdout", "text": step}, message["header"])

    kernel.on["execute_request"] = take


def test_a_question_that_gets_no_reply_is_lost_and_the_next_is_not(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    answering(kernel, "busy", "idle")
    with pytest.raises(GpuShareError, match="was interrupted"):
        relay.ask("1").result(PATIENCE)
    answering(kernel, "busy", "answer", "reply", "idle")
    assert relay.ask("1").result(PATIENCE).result == "done"
    relay.resume().result(PATIENCE)
    assert relay.attached


def test_an_interrupt_may_meet_the_second_request_too(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    answering(kernel, "busy", "idle")

    def lost(channel: str, idents: list[bytes], message: dict[str, Any]) -> None:
        kernel.status("idle", message["header"])
        del kernel.on["kernel_info_request"]

    kernel.on["kernel_info_request"] = lost
    with pytest.raises(GpuShareError, match="was interrupted"):
        relay.ask("1").result(PATIENCE)


def test_what_was_answered_was_done_although_the_reply_is_lost(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    answering(kernel, "busy", "answer", "idle")
    assert relay.ask("1").result(PATIENCE).result == "done"


def test_a_reply_that_comes_after_idle_is_waited_for(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    later: list[tuple[str, list[bytes], dict[str, Any]]] = []

    def cell(channel: str, idents: list[bytes], message: dict[str, Any]) -> None:
        later.append((channel, idents, message))
        kernel.publish("gpu_share_answer", {"result": "late"}, message["header"])
        kernel.status("idle", message["header"])

    def info(channel: str, idents: list[bytes], message: dict[str, Any]) -> None:
        # Both were under way at once: replies on one channel are in order.
        kernel.reply(*later[0])
        kernel.reply(channel, idents, message)

    kernel.on |= {"execute_request": cell, "kernel_info_request": info}
    assert relay.ask("1").result(PATIENCE).result == "late"


def test_a_reply_after_which_no_idle_comes_is_enough(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    answering(kernel, "busy", "answer", "reply")
    assert relay.ask("1").result(PATIENCE).result == "done"


def test_no_second_request_is_sent_where_the_reply_comes(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    answering(kernel, "busy", "answer", "idle", "reply")
    before = len(kernel.got)
    for _ in range(50):
        assert relay.ask("1").result(PATIENCE).result == "done"
    assert {m["header"]["msg_type"] for _, m in kernel.got[before:]} == {"execute_request"}


def test_a_question_names_the_last_cell_that_the_process_had(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay, paused=True)
    client = house.client(relay)
    answering(kernel, "busy", "answer", "reply", "idle")

    def named() -> Any:
        relay.ask("1").result(PATIENCE)
        return kernel.got[-1][1]["metadata"]["gpu_share"]["last_cell"]

    assert named() is None
    held = client.execute("1")
    reply(client, client.complete("x"))
    assert relay.held == 1
    assert named() is None, "a cell that waits is none that the process had"
    relay.resume().result(PATIENCE)
    reply(client, held)
    relay.pause().result(PATIENCE)
    assert named()["msg_id"] == held
    relay.resume().result(PATIENCE)
    sent = client.execute("2")
    reply(client, sent)
    relay.pause().result(PATIENCE)
    assert named()["msg_id"] == sent
    other = house.fake(relay, paused=True)
    answering(other, "busy", "answer", "reply", "idle")
    relay.ask("1").result(PATIENCE)
    assert other.got[-1][1]["metadata"]["gpu_share"]["last_cell"] is None


def test_what_threads_print_during_a_question_is_shown_under_the_last_cell(house: House) -> None:
    relay = house.relay()
    kernel = house.fake(relay)
    client = house.client(relay)
    sent = client.execute("1")
    reply(client, sent)
    outputs(client, sent)
    relay.pause().result(PATIENCE)
    answering(kernel, "busy", "from a thread", "answer", "reply", "idle")
    assert relay.ask("1").result(PATIENCE).result == "done"
    message = client.get_iopub_msg(timeout=PATIENCE)
    assert message["content"] == {"name": "stdout", "text": "from a thread"}
    assert message["parent_header"]["msg_id"] == sent
    relay.notify("the end")
    assert client.get_iopub_msg(timeout=PATIENCE)["content"]["text"] == "the end\n"


@pytest.mark.slow
def test_interrupts_that_meet_questions_hold_up_nobody(house: House) -> None:
    relay = house.relay()
    kernel = house.kernel(relay, env=ENV)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    ending = threading.Event()

    def interrupt() -> None:
        while not ending.wait(0.003):
            with suppress(ProcessLookupError):
                os.kill(kernel.process.pid, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    relay.pause().result(PATIENCE)
    ends: list[str] = []
    interrupting.start()
    try:
        while len(ends) < 60 and kernel.process.poll() is None:
            asked = relay.ask(question("limits"))
            end = time.monotonic() + PATIENCE
            while not wait([asked], 0.1).done and time.monotonic() < end:
                # An interrupt at the wrong moment ends ipykernel itself; its owner knows that.
                if kernel.process.poll() is not None:
                    relay.detach(gone=True).result(PATIENCE)
            error = asked.exception(0)
            assert error is None or isinstance(error, GpuShareError)
            ends.append(str(error))
    finally:
        ending.set()
        interrupting.join()
    if kernel.process.poll() is None:
        relay.resume().result(PATIENCE)
        assert run(client, "print('goes on')") == "goes on"
    assert ends
