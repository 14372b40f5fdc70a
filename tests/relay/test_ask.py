"""The relay itself asks a kernel that is paused; clients see nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
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
