"""A client sends whenever it likes, between any two commands of the owner."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session
from kernels import KEY, House, Notes
from waiting import PATIENCE, eventually

from jupyter_gpu_share.relay import HoldMode, Relay

ROUNDS = 2000


class Sender:
    """A thread that sends cells and remembers which were answered."""

    def __init__(self, relay: Relay) -> None:
        self.sent: list[str] = []
        self.answered: set[str] = set()
        self._ending = threading.Event()
        self._go = threading.Semaphore(0)
        self._relay = relay
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def send(self) -> None:
        """Send one more cell, at some moment from now on."""
        self._go.release()

    def _serve(self) -> None:
        session = Session(key=KEY, signature_scheme="hmac-sha256")
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self._relay.connection.url("shell"))
        while not self._ending.is_set():
            if self._go.acquire(timeout=0.001):
                message = session.msg("execute_request", {"code": "1", "silent": True})
                self.sent.append(message["header"]["msg_id"])
                session.send(socket, message)
            while socket.poll(0):
                _, reply = session.recv(socket, zmq.NOBLOCK)
                assert reply is not None
                self.answered.add(reply["parent_header"]["msg_id"])
        socket.close()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.slow
async def test_no_cell_is_held_in_silence(house: House) -> None:
    """After each round each cell was answered by a discard, or told with the epoch that holds."""
    draw = random.Random(11)
    notes = Notes()
    relay = house.relay(events=notes)
    sender = Sender(relay)
    epoch = 0
    try:
        for number in range(ROUNDS):
            sender.send()
            # The sender stays near: what it sends meets what is done here.
            await eventually(lambda: len(sender.sent) > number - 3, "it is sent")  # noqa: B023
            for _ in range(draw.randint(1, 3)):
                if draw.random() < 0.5:
                    relay.hold(draw.choice(list(HoldMode)), draw.choice(["", "waits"]))
                else:
                    relay.discard("KeyboardInterrupt", "given up")
                    epoch += 1
        await eventually(lambda: len(sender.sent) == ROUNDS, "all are sent")
        await eventually(lambda: len(notes.told) == ROUNDS, "each is told")
        told: list[Any] = [number for _, number in notes.told]
        assert told == sorted(told)
        # The owner drops what was told with an epoch that is over: just those are answered.
        await eventually(
            lambda: len(sender.answered) == sum(number < epoch for number in told),
            "what was discarded is answered",
        )
        assert relay.held == sum(number == epoch for number in told)
        left = ROUNDS - len(sender.answered)
        assert relay.discard("KeyboardInterrupt", "given up").result(PATIENCE) == left
        await eventually(lambda: len(sender.answered) == ROUNDS, "all are answered")
        assert len(set(told)) > 100, "both came in many orders"
    finally:
        sender.close()


@pytest.mark.slow
async def test_no_cell_is_lost_or_doubled_by_pauses(house: House) -> None:
    draw = random.Random(12)
    relay = house.relay()
    kernel = house.fake(relay)
    sender = Sender(relay)
    number = 500
    try:
        for _ in range(number):
            sender.send()
            relay.hold(draw.choice(list(HoldMode)))
            relay.pause()
            if draw.random() < 0.2:
                relay.notify("a line")
            if draw.random() < 0.05:
                relay.detach()
                relay.attach(kernel.connection).result(PATIENCE)
            relay.resume()
        # Those whose kernel was taken away before it replied are answered by nobody.
        await eventually(
            lambda: kernel.types("shell").count("execute_request") == number, "all have arrived"
        )
        arrived = [
            m["header"]["msg_id"] for _, m in kernel.got if m["header"]["msg_id"] in sender.sent
        ]
        assert arrived == sender.sent
        found = relay.count().result(PATIENCE)
        assert found.cells_sent == number
        assert found.cells_done == len(sender.answered)
    finally:
        sender.close()
