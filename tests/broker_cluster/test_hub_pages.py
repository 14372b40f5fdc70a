"""The page of a cluster's broker: what it shows to whom, and what its buttons ask for."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from served import PREFIX, FakeOverview, Service, row

from jupyter_gpu_share.broker.cluster.page import ClusterBoard
from jupyter_gpu_share.broker.hub._routes import page_routes
from jupyter_gpu_share.broker.hub._visitors import Visitor
from jupyter_gpu_share.broker.page import View
from jupyter_gpu_share.broker.page._html import document

NOW = datetime(2126, 3, 1, 12, tzinfo=timezone.utc)
ANN = Visitor("ann", "ann", None, administrator=False, allowed=True)
CAT = Visitor("cat", "cat", None, administrator=True, allowed=True)
FORM = {"do": "", "uid": "", "user": "", "server": "", "kernel": ""}


async def shown(board: ClusterBoard, visitor: Visitor) -> str:
    own = board.own_part(await board.look(), visitor)
    return document(View(own.machine, own.shares, own.usage, NOW, "proof", "", own.processes))


async def test_the_page_is_found_without_the_slash_too() -> None:
    """At the Hub's root its address has none that is left out."""
    for prefix, path, status in ((PREFIX, PREFIX.rstrip("/"), 302), ("/", "/v1", 404)):
        board = ClusterBoard(FakeOverview())
        visitors: Any = None
        auth: Any = SimpleNamespace(base_url=prefix)
        service = Service(prefix, page_routes(board, auth, visitors))
        try:
            answer = await service.ask("GET", path)
            assert answer.code == status
            assert answer.headers.get("Location") == (prefix if status == 302 else None)
        finally:
            await service.close()


async def test_users_see_their_own_over_all_servers() -> None:
    text = await shown(ClusterBoard(FakeOverview()), ANN)
    assert "Your GPU shares" in text and "<form" not in text
    assert "ann-a-secret" in text and "ann-b-secret" in text
    assert "bob" not in text and "group ann" not in text


async def test_administrators_see_all_with_nodes_and_no_processes() -> None:
    text = await shown(ClusterBoard(FakeOverview()), CAT)
    assert "GPU shares of all users" in text and "bob-c-secret" in text
    plain = re.sub(r"<[^>]+>", " ", text)
    assert re.search(r"node-1 +H200 +80 GiB +60 GiB +3 ", plain)
    assert "without a share" not in plain
    assert re.search(r'name="user" value="ann">.*name="server" value="lab">', text)
    assert 'name="uid"' not in text


async def test_users_hear_no_names_of_who_waits() -> None:
    overview = FakeOverview()
    waiting = [
        {"user": user, "server": "", "kernel_id": "k" * 8, "path": f"{user}-waits", "size": "1/2"}
        for user in ("ann", "bob")
    ]
    times = dict.fromkeys(("asked", "due", "taken"), NOW.isoformat())
    overview.rows = [row("ann", "", "a", promise={**times, "for": waiting})]
    board = ClusterBoard(overview)
    own = await shown(board, ANN)
    assert "ann-waits" in own and "bob" not in own and "another user" in own
    assert "bob-waits" in await shown(board, CAT)


@pytest.mark.parametrize(
    ("form", "done", "path"),
    [
        ({"do": "end"}, ("end", "ann", "lab", "a"), "/v1/admin/shares/ann/lab/a"),
        ({"do": "release"}, ("ask back", "ann", "lab", "a"), "/v1/admin/shares/ann/lab/a/release"),
        ({"do": "end", "server": ""}, ("end", "ann", "", "a"), "/v1/admin/shares/ann//a"),
        (
            {"do": "end", "user": "a/b\n", "server": "../x"},
            ("end", "a/b\n", "../x", "a"),
            "/v1/admin/shares/a%2Fb%0A/..%2Fx/a",
        ),
    ],
)
async def test_buttons(form: dict[str, str], done: Any, path: str) -> None:
    overview = FakeOverview()
    board = ClusterBoard(overview)
    order = board.order({**FORM, "user": "ann", "server": "lab", "kernel": "a", **form})
    assert order is not None and order.path == path
    await board.ask(order)
    assert overview.done == [done]


async def test_the_button_that_pauses() -> None:
    overview = FakeOverview()
    board = ClusterBoard(overview)
    for do, paused in (("pause", True), ("resume", False)):
        order = board.order({**FORM, "do": do})
        assert order is not None
        await board.ask(order)
        assert overview.paused is paused


@pytest.mark.parametrize(
    "form", [{"do": "end"}, {"do": "end", "user": "ann"}, {"do": "other"}, {"do": "", "user": "a"}]
)
def test_buttons_that_the_page_has_not(form: dict[str, str]) -> None:
    assert ClusterBoard(FakeOverview()).order({**FORM, **form}) is None


def test_every_user_of_the_hub_has_a_page() -> None:
    assert ClusterBoard(FakeOverview()).why_not(ANN) == ""
