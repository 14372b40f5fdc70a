"""Cells that a kernel never answers are found, and answered; all others are the kernel's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeKernel, Message
from kernels import House, outputs, reply, run
from test_ask import ENV, question
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import _service, _unanswered
from jupyter_gpu_share.relay._held import Held
from jupyter_gpu_share.relay._unanswered import Unanswered

#: Has the kernel itself be interrupted once, where ipykernel is about to run a cell.
MEETS_INTERRUPT = """
kernel = get_ipython().kernel
def interrupted(*arguments, **options):
    kernel.shell_handlers["execute_request"] = kernel.execute_request
    raise KeyboardInterrupt
kernel.shell_handlers["execute_request"] = interrupted
"""

Took = Callable[[str, list[bytes], Message], None]


class Deaf:
    """Has a fake of ipykernel keep cells, and what is asked behind them, until it is told."""

    def __init__(self, kernel: FakeKernel, implementation: str = "ipython") -> None:
        self.kernel = kernel
        self.implementation = implementation
        self.kept: list[tuple[str, list[bytes], Message]] = []
        self.deaf = True
        kernel.on |= {"execute_request": self._keep, "kernel_info_request": self._keep}

    def _keep(self, *message: Any) -> None:
        self.kept.append(message)
        if not self.deaf:
            self._answer()

    def _answer(self, *dropped: str) -> None:
        for channel, idents, message in self.kept:
            kind = message["header"]["msg_type"]
            self.kernel.status("busy", message["header"])
            if kind not in dropped:
                told = {"implementation": self.implementation, "protocol_version": "5.3"}
                self.kernel.reply(channel, idents, message, **told)
            self.kernel.status("idle", message["header"])
        self.kept.clear()

    def answer(self, *dropped: str) -> None:
        """Answer what is kept, in order, but for these types, of which it says only idle."""
        done = threading.Event()
        self.kernel.do(lambda: (self._answer(*dropped), done.set()))
        assert done.wait(PATIENCE)

    @property
    def asked(self) -> int:
        """How often the relay asked whether cells are over."""
        return sum(message["metadata"].get("gpu_share") is not None for *_, message in self.kept)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unanswered, "_PATIENCE", 0.05)
    monkeypatch.setattr(_service, "_AGAIN", 0.05)


def fake(house: House, **options: Any) -> tuple[Any, Any, Deaf]:
    """A relay, a client and the fake behind them, which keeps what comes."""
    relay = house.relay()
    kernel = house.fake()
    deaf = Deaf(kernel, **options)
    deaf.deaf = False
    relay.attach(kernel.connection).result(PATIENCE)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    deaf.deaf = True
    return relay, client, deaf


@pytest.mark.usefixtures("soon")
async def test_a_cell_that_is_never_answered_is_answered_by_the_relay(house: House) -> None:
    relay, client, deaf = fake(house)
    lost = [client.execute("1"), client.execute("2")]
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    deaf.answer("execute_request")
    for sent in lost:
        answer = reply(client, sent)
        assert (answer["status"], answer["ename"]) == ("error", "KeyboardInterrupt")
    activity = relay.count().result(PATIENCE)
    assert (activity.pending_cells, activity.cells_sent, activity.cells_done) == (0, 2, 2)
    next_one = client.execute("3")
    await eventually(lambda: deaf.kept, "the next cell reaches the kernel")
    deaf.answer()
    assert reply(client, next_one)["status"] == "ok"


@pytest.mark.usefixtures("soon")
async def test_a_cell_that_takes_long_is_the_kernels_to_answer(house: House) -> None:
    relay, client, deaf = fake(house)
    first, second = client.execute("1"), client.execute("2")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    assert relay.count().result(PATIENCE).pending_cells == 2
    deaf.answer()
    assert reply(client, first)["status"] == "ok"
    assert reply(client, second)["status"] == "ok"
    third = client.execute("3")
    await eventually(lambda: deaf.kept, "the next cell reaches the kernel")
    deaf.answer()
    assert reply(client, third)["status"] == "ok"
    assert relay.count().result(PATIENCE).cells_done == 3


@pytest.mark.usefixtures("soon")
async def test_a_cell_behind_the_question_is_not_taken_for_over(house: House) -> None:
    _, client, deaf = fake(house)
    first = client.execute("1")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    second = client.execute("2")
    await eventually(
        lambda: second in [message["header"]["msg_id"] for *_, message in deaf.kept],
        "the second cell reaches the kernel",
    )

    def one_of_two() -> None:
        # In order: what was asked behind the second cell says something about it.
        at = [message["header"]["msg_id"] for *_, message in deaf.kept].index(second)
        deaf.kept, late = deaf.kept[:at], deaf.kept[at:]
        deaf._answer("execute_request")
        deaf.kept = late

    deaf.kernel.do(one_of_two)
    assert reply(client, first)["ename"] == "KeyboardInterrupt"
    deaf.answer()
    assert reply(client, second)["status"] == "ok"


@pytest.mark.usefixtures("soon")
async def test_an_interrupt_may_meet_what_the_relay_asks(house: House) -> None:
    _, client, deaf = fake(house)
    sent = client.execute("1")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    deaf.answer("execute_request", "kernel_info_request")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked again")
    deaf.answer()
    assert reply(client, sent)["ename"] == "KeyboardInterrupt"


@pytest.mark.usefixtures("soon")
async def test_what_is_asked_says_nothing_once_the_kernel_was_paused(house: House) -> None:
    relay, client, deaf = fake(house)
    sent = client.execute("1")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    assert relay.pause().result(PATIENCE).busy
    # What the relay would answer in place of a kernel that is paused is no answer of the kernel.
    assert relay.count().result(PATIENCE).busy
    before = deaf.asked
    relay.resume().result(PATIENCE)
    await eventually(lambda: deaf.asked > before, "the kernel is asked anew")
    deaf.answer()
    assert reply(client, sent)["status"] == "ok"


@pytest.mark.usefixtures("soon")
async def test_a_kernel_that_may_run_cells_side_by_side_is_not_asked(house: House) -> None:
    relay, client, deaf = fake(house, implementation="other")
    client.execute("1")
    await eventually(lambda: deaf.kept, "the cell reaches the kernel")
    for _ in range(50):  # more than long enough to be asked
        client.complete("x", reply=True, timeout=PATIENCE)
    assert deaf.asked == 0
    assert relay.count().result(PATIENCE).busy


@pytest.mark.usefixtures("soon")
async def test_without_descriptors_the_kernel_is_handed_back_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, client, deaf = fake(house)
    made, failed = _service.Carriers, threading.Event()

    def none_left(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise OSError(24, "Too many open files")
        return made(*arguments)

    monkeypatch.setattr(_service, "Carriers", none_left)
    lost = client.execute("1")
    await eventually(lambda: deaf.asked >= 1, "the kernel is asked")
    deaf.answer("execute_request")
    assert reply(client, lost)["ename"] == "KeyboardInterrupt"
    assert failed.wait(PATIENCE)
    sent = client.execute("2")
    await eventually(lambda: relay.attached and deaf.kept, "the kernel is handed back")
    deaf.answer()
    assert reply(client, sent)["status"] == "ok"


async def test_ipykernel_is_interrupted_where_it_sends_no_reply(house: House) -> None:
    relay = house.relay()
    house.kernel(relay, env=ENV)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    run(client, MEETS_INTERRUPT)
    sent = client.execute("1")
    assert reply(client, sent)["ename"] == "KeyboardInterrupt"
    outputs(client, sent)  # the kernel says that it is done with it
    shown = outputs(client, sent)
    assert [kind for kind, _ in shown] == ["error", "status"]
    assert shown[0][1]["ename"] == "KeyboardInterrupt"
    assert not relay.count().result(PATIENCE).busy
    assert reply(client, client.execute("2"))["status"] == "ok"


async def test_threads_print_under_the_last_cell_though_the_kernel_is_asked(house: House) -> None:
    relay = house.relay()
    house.kernel(relay, env=ENV)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    relay.pause().result(PATIENCE)
    relay.ask(question("scratch")).result(PATIENCE)
    relay.resume().result(PATIENCE)
    watch = (
        "import threading, time\nkernel = get_ipython().kernel\n"
        "was, told = kernel.shell_handlers['kernel_info_request'], threading.Event()\n"
        "def info(*arguments):\n"
        "    told.set()\n"
        "    return was(*arguments)\n"
        "kernel.shell_handlers['kernel_info_request'] = info\n"
        "def talk():\n"
        "    told.wait()\n"
        "    print('talked', flush=True)\n"
        "threading.Thread(target=talk, daemon=True).start()\n"
        f"time.sleep({_unanswered._PATIENCE} + 0.5)  # long enough to be asked about\n"
    )
    sent = client.execute(watch)
    assert reply(client, sent)["status"] == "ok"
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "stream":
            break
    assert message["content"]["text"].startswith("talked")  # its newline may follow
    assert message["parent_header"]["msg_id"] == sent


# -- when it is asked --------------------------------------------------------------------------


def cell(number: int, **header: object) -> Held:
    return Held("shell", [], [], {"msg_type": "execute_request", "msg_id": f"m{number}", **header})


def test_it_is_asked_again_after_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_unanswered.time, "monotonic", lambda: now)
    open_cells = Unanswered()
    assert open_cells.due is None
    open_cells.sent(cell(1))
    asked = []
    for number in range(4):
        assert open_cells.due is not None
        now = open_cells.due
        asked.append(now - 100)
        open_cells.asked(f"q{number}")
    assert asked == [2, 4, 8, 16]
    assert [held.header["msg_id"] for held in open_cells.over({"msg_id": "q3"})] == ["m1"]


def test_cells_of_subshells_are_no_concern_of_the_main_shell() -> None:
    open_cells = Unanswered()
    open_cells.sent(cell(1, subshell_id="s"))
    assert open_cells.due is None


def test_what_was_answered_meanwhile_is_not_over_without_a_reply() -> None:
    open_cells = Unanswered()
    for number in range(3):
        open_cells.sent(cell(number))
    open_cells.asked("q")
    open_cells.answered("m1")
    open_cells.sent(cell(3))
    assert [held.header["msg_id"] for held in open_cells.over({"msg_id": "q"})] == ["m0", "m2"]
    assert open_cells.over({"msg_id": "q"}) == []


@pytest.mark.usefixtures("soon")
async def test_a_paused_kernel_has_what_it_was_handed_until_it_is_past_it(house: House) -> None:
    relay, client, deaf = fake(house)
    lost = client.execute("1")
    await eventually(lambda: deaf.kept, "the kernel has the cell")
    relay.pause().result(PATIENCE)
    held = client.execute("2")
    await eventually(lambda: relay.held == 1, "the next one waits")
    assert relay.at_work().result(PATIENCE) == 1
    deaf.answer()
    assert reply(client, lost)["status"] == "ok"
    assert relay.at_work().result(PATIENCE) == 0
    relay.resume().result(PATIENCE)
    await eventually(lambda: deaf.kept, "the kernel has the next one")
    relay.pause().result(PATIENCE)

    def asked() -> bool:
        assert relay.at_work().result(PATIENCE) == 1
        return deaf.asked > 0

    await eventually(asked, "the kernel is asked whether it is past the cell")
    deaf.answer("execute_request")
    answer = reply(client, held)
    assert (answer["status"], answer["ename"]) == ("error", "KeyboardInterrupt")
    assert relay.at_work().result(PATIENCE) == 0
    assert relay.count().result(PATIENCE).pending_cells == 0
