"""The client of users' servers against the real routes of the home, with a fake cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fake_objects import KEY
from homes import FakeHome, User
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker.http_client import HttpBroker
from jupyter_gpu_share.engines.base import Exit, Waiting
from jupyter_gpu_share.engines.kubernetes._followed import Followed
from jupyter_gpu_share.engines.kubernetes._machine import Machine
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys
from jupyter_gpu_share.engines.kubernetes._remote_objects import RemoteObjects
from jupyter_gpu_share.engines.kubernetes._row import Row, allocation_of
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size


class Client:
    """One process of a user's server."""

    def __init__(self, user: User) -> None:
        self.http = HttpBroker(user.home.url, user.token, user.instance)
        self.unknown: list[Row] = []
        self.followed = Followed(self.http, self.unknown.append)
        self.followed.open()

    def kernel(self, kernel_id: str = "k", size: str = "1/4") -> RemoteObjects:
        keys = Keys.new(KEY.encode(), "hmac-sha256", encrypt=True)
        plan = KernelPlan(kernel_id, "python3", Size.parse(size), path="a.ipynb", keys=keys)
        return RemoteObjects(self.http, self.followed, plan)

    async def close(self) -> None:
        await self.followed.close()
        await self.http.close()


@pytest.fixture
async def client() -> AsyncIterator[Callable[[User], Client]]:
    made: list[Client] = []

    def make(user: User) -> Client:
        made.append(Client(user))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def soon(work: Any) -> Any:
    return await asyncio.wait_for(work, PATIENCE)


def heed(news: object) -> None:
    """Whoever waits is told; here nobody listens."""


async def test_a_life_over_the_real_routes(
    home: FakeHome, client: Callable[[User], Client]
) -> None:
    one = client(home.user("ann"))
    machine = Machine.read(await one.http.ask("GET", "/v1/machine"))
    assert (machine.user, machine.server, machine.style) == ("ann", "", "lease")
    home.cluster.room.clear()
    objects = one.kernel()
    told: list[Any] = []
    task = asyncio.create_task(objects.start(told.append))
    await eventually(lambda: any(isinstance(each, Waiting) for each in told), "it waits")
    home.cluster.room.set()
    connection = await soon(task)
    assert (connection.ip, connection.key) == ("10.0.0.1", KEY.encode())
    assert objects.there
    assert objects.detachable
    await soon(objects.give_back())
    assert objects.lent
    home.cluster.room.clear()
    taking = asyncio.create_task(objects.take_back(heed))
    await eventually(lambda: objects._state == "taking", "it waits again")
    taking.cancel()
    await asyncio.wait({taking})
    assert objects._state == "released"
    home.cluster.room.set()
    assert await soon(objects.take_back(heed))
    assert not objects.lent
    planned = await soon(objects.planned(Size.parse("1/2")))
    assert planned is not None
    await soon(objects.change(Size.parse("1/2")))
    await soon(objects.note_path("b.ipynb"))
    (kernel,) = home.registry
    assert (str(kernel.plan.size), kernel.plan.path) == ("1/2", "b.ipynb")
    assert await objects.last_words(3) == "last words"
    (shown,) = map(allocation_of, await one.http.ask("GET", "/v1/details"))
    assert (shown.user, shown.size) == ("ann", "1/2")
    await soon(objects.delete())
    assert await soon(objects.settled(PATIENCE))
    assert not home.cluster.pods
    assert len(home.cluster.created) == 1
    assert not one.unknown


async def test_the_next_process_takes_over_what_the_last_one_has_left(
    home: FakeHome, client: Callable[[User], Client]
) -> None:
    ann = home.user("ann")
    first = client(ann)
    before = first.kernel()
    await soon(before.start(heed))
    await soon(before.give_back())
    await first.close()
    again = ann.again()
    later = client(again)
    (row,) = map(Row.read, await later.http.ask("GET", "/v1/shares"))
    assert row.held_by_other, "for a while it may come back"
    home.gone(ann)
    (row,) = map(Row.read, await later.http.ask("GET", "/v1/shares"))
    assert not row.held_by_other
    objects = later.kernel()
    connection = await soon(objects.adopt(row.instance, heed))
    assert connection.key == KEY.encode()
    await soon(objects.settle(heed))
    assert objects.there
    assert not objects.lent
    await soon(objects.delete())


async def test_an_end_is_told_and_a_limit_refuses_in_words(
    home: FakeHome, client: Callable[[User], Client]
) -> None:
    home.rules.most = 1
    one = client(home.user("ann"))
    objects = one.kernel()
    await soon(objects.start(heed))
    other = one.kernel("other")
    with pytest.raises(EngineError, match="You may hold 1 shares"):
        await soon(other.start(heed))
    await soon(other.delete())
    (pod,) = home.cluster.pods.values()
    pod.end(Exit(137, "It had no memory left."))
    assert (await soon(objects.ended())).reason == "It had no memory left."
    await soon(objects.delete())


async def test_a_removal_is_told_and_let_go(
    home: FakeHome, client: Callable[[User], Client]
) -> None:
    one = client(home.user("ann"))
    objects = one.kernel()
    await soon(objects.start(heed))
    left: list[bool] = []
    objects.on_leave = lambda: left.append(True)
    listening = asyncio.create_task(objects.removed())
    await asyncio.sleep(0)
    (pod,) = home.cluster.pods.values()
    let_go: list[bool] = []
    pod.on_leave = lambda: let_go.append(True)
    pod.remove("The node is emptied.")
    assert (await soon(listening)).reason == "The node is emptied."
    assert not left
    objects.let_go()
    await eventually(lambda: let_go, "the broker's side hears of it")
    await soon(objects.delete())
