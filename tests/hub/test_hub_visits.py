"""Who sees what on the page of a real JupyterHub, and who may do what there."""

from __future__ import annotations

import http.client
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from broker_users import User, user
from hubs import ANN, BOB, CAT, UIDS, RunningHub, fetch
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import DEFAULT_SOCKET


@pytest.fixture
def users(hub: RunningHub) -> Iterator[dict[str, User]]:
    """Programs of ann and bob, who each hold a share without a server of the Hub's."""
    with ExitStack() as stack:
        found = {}
        for name in (ANN, BOB):
            entered = user(UIDS[name], Path(DEFAULT_SOCKET), *hub.inside)
            found[name] = stack.enter_context(entered)
            found[name].claim(f"of-{name}", "1/4", info={"path": f"{name}-secret.ipynb"})
        yield found


def press(hub: RunningHub, token: str | None, do: str, of: str, **headers: str) -> tuple[int, str]:
    fields = {"do": do, "uid": str(UIDS[of]), "kernel": f"of-{of}"}
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode(fields).encode()
    return fetch(f"{hub.page}do", "POST", body, token, **kind, **headers)


@pytest.mark.slow
def test_users_see_their_own_and_administrators_all(
    hub: RunningHub, users: dict[str, User]
) -> None:
    for name, other in ((ANN, BOB), (BOB, ANN)):
        status, text = fetch(hub.page, token=hub.token(name))
        assert status == 200
        assert f"{name}-secret.ipynb" in text and "Your GPU shares" in text
        assert other not in text and str(UIDS[other]) not in text and "<form" not in text
    status, text = fetch(hub.page, token=hub.token(CAT))
    assert status == 200 and "GPU shares of all users" in text
    assert f"{ANN}-secret.ipynb" in text and f"{BOB}-secret.ipynb" in text


@pytest.mark.slow
def test_administrators_alone_end_kernels(hub: RunningHub, users: dict[str, User]) -> None:
    for do in ("end", "release", "pause"):
        for of in (ANN, BOB):
            status, text = press(hub, hub.token(ANN), do, of)
            assert (status, text) == (403, "Only an administrator may do that.\n")
    assert set(hub.claims()) == {f"of-{ANN}", f"of-{BOB}"}
    assert not hub.ask_broker("GET", "/v1/machine")["paused"]
    status, text = press(hub, hub.token(CAT), "end", ANN)
    assert status == 200 and f"{ANN}-secret.ipynb" not in text
    assert set(hub.claims()) == {f"of-{BOB}"}


@pytest.mark.slow
def test_who_is_not_let_in(hub: RunningHub, users: dict[str, User]) -> None:
    """A token has to have the scope, and be one that the Hub knows."""
    connection = http.client.HTTPConnection(urlsplit(hub.page).netloc, timeout=PATIENCE)
    connection.request("GET", urlsplit(hub.page).path)
    answer = connection.getresponse()
    assert answer.status == 302
    assert answer.headers["Location"].startswith("/hubs/hub/api/oauth2/authorize?client_id=")
    connection.close()
    status, text = fetch(hub.page, token=hub.token(ANN, "read:users!user"))
    assert (status, text) == (403, "The Hub does not allow you this page; ask its administrator.\n")
    # An administrator's token has only those rights that it was made with.
    plain = hub.token(CAT, "access:services!service=gpu-share")
    assert "GPU shares of all users" not in fetch(hub.page, token=plain)[1]
    assert press(hub, plain, "end", ANN)[0] == 403
    for token in (None, "0" * 32):
        status, text = press(hub, token, "end", ANN)
        assert (status, text) == (403, "This did not come from the page; open it again.\n")
    assert set(hub.claims()) == {f"of-{ANN}", f"of-{BOB}"}


@pytest.mark.slow
def test_one_visitor_does_not_keep_others_out(hub: RunningHub) -> None:
    """All visitors are one to the broker, so the page bounds each of them."""
    address = urlsplit(hub.page)
    ann, bob = ({"Authorization": f"token {hub.token(name)}"} for name in (ANN, BOB))
    opened = []

    def ask(headers: dict[str, str]) -> http.client.HTTPConnection:
        opened.append(http.client.HTTPConnection(address.netloc, timeout=PATIENCE))
        opened[-1].request("GET", address.path, headers=headers)
        return opened[-1]

    def answered(connection: http.client.HTTPConnection) -> bool:
        return bool(select.select([connection.sock], [], [], 0)[0])

    with hub.slow_broker():
        many = [ask(ann) for _ in range(7)]
        until(lambda: sum(map(answered, many)) == 3, "the rest is refused")
        other = ask(bob)
    statuses = sorted(connection.getresponse().status for connection in many)
    assert statuses == [200] * 4 + [429] * 3
    assert other.getresponse().status == 200
    assert ask(ann).getresponse().status == 200
    for connection in opened:
        connection.close()


@pytest.mark.slow
def test_a_token_that_the_hub_took_back_is_refused_soon(hub: RunningHub) -> None:
    made = hub.ok("POST", f"/users/{ANN}/tokens", {})
    assert press(hub, made["token"], "end", ANN)[1] == "Only an administrator may do that.\n"
    hub.ok("DELETE", f"/users/{ANN}/tokens/{made['id']}")
    refused = "This did not come from the page; open it again.\n"
    until(lambda: press(hub, made["token"], "end", ANN)[1] == refused, "it is refused", 30)
