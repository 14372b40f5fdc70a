"""A process with few descriptors: each step of a relay is tried with too few left.

Run by ``test_descriptors.py``, in a process of its own. Prints the steps that were refused.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernels import KEY, House, Notes, reply
from waiting import PATIENCE

from jupyter_gpu_share.errors import EngineError, GpuShareError
from jupyter_gpu_share.relay import HoldMode, Relay

LIMIT = 512
MOST = 30


@contextmanager
def left(number: int) -> Iterator[None]:
    """Within the block only so many descriptors can be opened."""
    taken: list[int] = []
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(number):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)


def check(error: GpuShareError, what: str) -> None:
    assert "too many open files" in str(error), error
    print(what)


def bind(number: int) -> None:
    relay = Relay(key=KEY)
    threads = threading.active_count()
    with left(number):
        try:
            relay.bind()
        except EngineError as error:
            check(error, "bind")
            assert threading.active_count() == threads
    relay.close().result(PATIENCE)


def attach(house: House, number: int) -> None:
    notes = Notes()
    relay = house.relay(events=notes)
    relay.hold(HoldMode.WAITING)
    client = house.client(relay)
    client.wait_for_ready(timeout=PATIENCE)
    cell = client.execute("1")
    kernel = house.fake()
    while not notes.told:
        relay.count().result(PATIENCE)
    with left(number):
        try:
            relay.attach(kernel.connection).result(PATIENCE)
        except GpuShareError as error:
            check(error, "attach")
            assert relay.held == 1
            assert not relay.attached
            assert kernel.types("shell") == []
    if not relay.attached:
        relay.attach(kernel.connection).result(PATIENCE)
    assert reply(client, cell)["status"] == "ok"
    # The same, for a kernel that is there already.
    relay.pause().result(PATIENCE)
    cell = client.execute("2")
    while relay.held < 1:
        relay.count().result(PATIENCE)
    with left(number):
        try:
            relay.resume().result(PATIENCE)
        except GpuShareError as error:
            check(error, "resume")
            assert relay.held == 1
            # It is paused as before.
            assert reply(client, client.comm_info())["by"] == "the kernel"
    relay.resume().result(PATIENCE)
    assert reply(client, cell)["status"] == "ok"
    assert kernel.types("shell").count("execute_request") == 2
    house.close()
    house.clients.clear()
    house.relays.clear()
    house.kernels.clear()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="limited-"))
    house = House(folder)
    try:
        # What is opened once: the context, and what clients need.
        attach(house, MOST)
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        for number in range(MOST):
            bind(number)
            attach(house, number)
    finally:
        house.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
