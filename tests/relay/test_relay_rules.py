"""What becomes of each message in each situation, between real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeKernel
from jupyter_client.blocking import BlockingKernelClient
from kernels import House, Notes, reply
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import HoldMode, Relay
from jupyter_gpu_share.relay._rules import _TABLE, Kind, kind_of

#: Without a kernel and with one that is paused, each while starting and waiting.
SITUATIONS = [(live, mode) for live in (False, True) for mode in HoldMode]

HELD, TOLD, INFO, EMPTY = "held", "held, told", "answered from memory", "answered, empty"
PASSED, REFUSED, DROPPED = "passed", "refused", "dropped"
INTERRUPTED, ENDED, ENDED_TOO = "interrupted", "ended", "passed, ended"

#: Channel, type and content of a message, and what becomes of it in each situation.
ROWS: list[tuple[str, str, dict[str, Any], tuple[str, str, str, str]]] = [
    ("shell", "execute_request", {"code": "1"}, (TOLD, TOLD, TOLD, TOLD)),
    ("control", "execute_request", {"code": "1"}, (TOLD, TOLD, TOLD, TOLD)),
    *(
        ("shell", kind, {"comm_id": "w", "target_name": "t", "data": {}}, (TOLD,) * 4)
        for kind in ("comm_open", "comm_msg", "comm_close")
    ),
    (
        "shell",
        "comm_open",
        {"comm_id": "p", "target_name": "jupyter.widget.control", "data": {}},
        (HELD, HELD, PASSED, PASSED),
    ),
    ("shell", "kernel_info_request", {}, (HELD, INFO, INFO, INFO)),
    ("control", "kernel_info_request", {}, (HELD, INFO, INFO, INFO)),
    ("shell", "comm_info_request", {}, (HELD, EMPTY, PASSED, PASSED)),
    ("shell", "history_request", {}, (HELD, EMPTY, EMPTY, EMPTY)),
    ("shell", "complete_request", {}, (EMPTY,) * 4),
    ("shell", "inspect_request", {}, (EMPTY,) * 4),
    ("shell", "is_complete_request", {}, (EMPTY,) * 4),
    ("control", "interrupt_request", {}, (INTERRUPTED,) * 4),
    ("control", "shutdown_request", {"restart": True}, (ENDED, ENDED, ENDED_TOO, ENDED)),
    ("shell", "shutdown_request", {"restart": False}, (ENDED, ENDED, ENDED_TOO, ENDED)),
    *(
        ("control", kind, {}, (REFUSED, REFUSED, PASSED, PASSED))
        for kind in (
            "debug_request",
            "usage_request",
            "create_subshell_request",
            "delete_subshell_request",
            "list_subshell_request",
            "unheard_of_request",
        )
    ),
    ("shell", "unheard_of_request", {}, (REFUSED,) * 4),
    ("shell", "input_reply", {"value": ""}, (DROPPED,) * 4),
    ("control", "unheard_of", {}, (DROPPED,) * 4),
]


class Seen:
    """What became of one message."""

    def __init__(self, house: House, *, live: bool, mode: HoldMode) -> None:
        self.notes = Notes()
        self.relay: Relay = house.relay(events=self.notes, kernel_info={"status": "ok", "of": "us"})
        self.kernel: FakeKernel = house.fake()
        self.client: BlockingKernelClient = house.client(self.relay)
        self.mode = mode
        self.live = live
        if live:
            self.relay.attach(self.kernel.connection, paused=True).result(PATIENCE)
        self.relay.hold(mode)
        # A client that is known on both channels.
        self._get("shell", self._send("shell", "complete_request", {}))
        self._get("control", self._send("control", "interrupt_request", {}))
        self._settled().clear()

    def _send(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        message = self.client.session.msg(kind, content)
        getattr(self.client, f"{channel}_channel").send(message)
        return str(message["header"]["msg_id"])

    def _get(self, channel: str, sent: str) -> list[dict[str, Any]]:
        """All that came on a channel up to the reply to a request."""
        get = getattr(self.client, f"get_{channel}_msg")
        found = []
        while True:
            found.append(get(timeout=PATIENCE))
            if found[-1]["parent_header"].get("msg_id") == sent:
                return found

    def _settled(self) -> list[Any]:
        """What was told: a reply is sent a moment before."""
        self.relay.count().result(PATIENCE)
        return self.notes.told

    def of(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        before = len(self.kernel.types(channel))
        sent = self._send(channel, kind, content)
        # What is answered by the relay was read after the message.
        shell = channel == "shell"
        fence = self._send(channel, "complete_request" if shell else "interrupt_request", {})
        replies = self._get(channel, fence)[:-1]
        if self.live:
            # And what was passed on was there before this.
            last = self._send(channel, "comm_info_request" if shell else "usage_request", {})
            replies += self._get(channel, last)[:-1]
        passed = self.kernel.types(channel)[before : -1 if self.live else None]
        told = self._settled()
        if not shell:
            told.remove("interrupted")
        mine = [each for each in replies if each["parent_header"]["msg_id"] == sent]
        return self._judge(kind, mine, passed, told)

    def _judge(
        self, kind: str, replies: list[dict[str, Any]], passed: list[str], told: list[Any]
    ) -> str:
        if passed:
            assert passed == [kind]
            assert len(replies) == kind.endswith("_request")
            assert all(each["content"]["by"] == "the kernel" for each in replies)
            if told:
                assert [what for what, _ in told] == ["shutdown"]
            return ENDED_TOO if told else PASSED
        if not replies:
            if told:
                assert told == [("wanted", 0)]
                assert self.relay.held == 1
                return TOLD
            assert self.relay.held == 0
            return self._is_held(kind)
        (answer,) = replies
        content = answer["content"]
        assert answer["msg_type"] == kind.removesuffix("_request") + "_reply"
        if content["status"] == "error":
            assert (content["traceback"], told) == ([], [])
            assert len(content["evalue"].splitlines()) == 1
            return REFUSED
        if told:
            (only,) = told
            if only == "interrupted":
                return INTERRUPTED
            assert only == ("shutdown", content["restart"])
            return ENDED
        if "of" in content or "by" in content:
            # Of the last process that answered, where there was one.
            assert ("by" in content) == self.live
            return INFO
        return EMPTY

    def _is_held(self, kind: str) -> str:
        if self.live:
            self.relay.resume().result(PATIENCE)
        else:
            self.relay.attach(self.kernel.connection).result(PATIENCE)
        # What is handed over comes before what clients send next.
        reply(self.client, self.client.complete("x"))
        self._get("control", self._send("control", "usage_request", {}))
        got = self.kernel.types("shell") + self.kernel.types("control")
        return HELD if kind in got else DROPPED


@pytest.mark.parametrize(
    ("situation", "live", "mode"), [(n, *each) for n, each in enumerate(SITUATIONS)]
)
@pytest.mark.parametrize(
    ("channel", "kind", "content", "expected"),
    ROWS,
    ids=[f"{row[0]}-{row[1]}-{n}" for n, row in enumerate(ROWS)],
)
def test_a_message_is_dealt_with_by_the_table(
    house: House,
    situation: int,
    live: bool,
    mode: HoldMode,
    channel: str,
    kind: str,
    content: dict[str, Any],
    expected: tuple[str, ...],
) -> None:
    seen = Seen(house, live=live, mode=mode)
    assert seen.of(channel, kind, content) == expected[situation]


def test_the_rows_above_are_all_that_there_are() -> None:
    tried = {
        kind_of(kind, channel, quiet=content.get("comm_id") == "p")
        for channel, kind, content, _ in ROWS
    }
    assert tried == set(Kind) == set(_TABLE)


async def test_what_is_held_is_judged_anew_when_the_kernel_is_there(house: House) -> None:
    relay = house.relay()
    client = house.client(relay)
    asked, comms, cell = client.kernel_info(), client.comm_info(), client.execute("1")
    await eventually(lambda: relay.held == 1, "the cell is held")
    kernel = house.fake(relay, paused=True)
    assert reply(client, asked)["by"] == "the kernel"
    assert reply(client, comms)["by"] == "the kernel"
    assert kernel.types("shell") == ["comm_info_request"]
    relay.resume().result(PATIENCE)
    assert reply(client, cell)["status"] == "ok"
