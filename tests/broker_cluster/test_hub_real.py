"""Who calls, by a real JupyterHub: roles with and without the scope, servers that stop, the Hub
killed, and the page through its login."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hubs import ANN, BOB, CAT, fetch
from hubs_of_service import SCOPE, WATCHING, HubOfService, hub_of_service
from served import INSTANCE
from servers import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ADMIN = "custom:gpu-share:admin"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubOfService]:
    with hub_of_service("user", "server") as running:
        yield running


def who(hub: HubOfService, token: str | None) -> tuple[int, Any]:
    return fetch(hub.direct("/v1/who"), token=token)


def start(hub: HubOfService, token: str) -> tuple[int, Any]:
    headers = {"Gpu-Share-Instance": INSTANCE, "Content-Type": "application/json"}
    return fetch(hub.direct("/v1/who"), "PUT", {"size": "1"}, token, **headers)


def token_of_server(hub: HubOfService, user: str, name: str = "") -> str:
    """A new server of a user's, and the token that it has."""
    hub.server(user, name)
    pid = int(hub.ok("GET", f"/users/{user}")["servers"][name]["state"]["pid"])
    environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in environ if "=" in each)["JUPYTERHUB_API_TOKEN"]


def test_tokens_of_a_real_hub(hub: HubOfService) -> None:
    ann, lab = token_of_server(hub, ANN), token_of_server(hub, ANN, "lab")
    for token, server in ((ann, ""), (lab, "lab")):
        status, found = who(hub, token)
        assert (status, found["user"], found["server"]) == (200, ANN, server)
        assert not found["administrator"] and found["fresh"]
        assert start(hub, token) == (201, {"server": server, "instance": INSTANCE, "size": "1"})
    hub.ok("DELETE", f"/users/{ANN}/servers/lab")

    # A token that the user has made has no server, and so holds nothing.
    plain = hub.token(ANN)
    assert who(hub, plain)[1]["server"] is None
    assert start(hub, plain)[0] == 403
    assert who(hub, hub.token(ANN, "read:users!user"))[0] == 403
    # The Hub's own administrator of servers is nobody here, nor is the service itself.
    assert who(hub, hub._token)[0] == 403
    assert who(hub, "a-token-of-nobody")[0] == 401
    assert who(hub, hub.token(CAT))[1]["administrator"]
    assert not who(hub, hub.token(CAT, SCOPE))[1]["administrator"]
    # What runs in an administrator's server is no administrator.
    of_cat = token_of_server(hub, CAT)
    assert not who(hub, of_cat)[1]["administrator"]
    hub.stop_server(CAT)

    status, found = who(hub, WATCHING)
    assert (status, found["user"], found["server"]) == (200, "service/gpu-share-usage", None)
    assert found["administrator"] and start(hub, WATCHING)[0] == 403

    # It is refused soon after its server has stopped.
    assert who(hub, ann)[0] == 200
    hub.stop_server(ANN)
    begun = time.monotonic()
    until(lambda: who(hub, ann)[0] == 401, "the token is refused", 35)
    assert time.monotonic() - begun < 30


def test_groups_come_with_the_identity(hub: HubOfService) -> None:
    hub.ok("POST", "/groups/course")
    hub.ok("POST", "/groups/course/users", {"users": [BOB]})
    status, found = who(hub, hub.token(BOB))
    assert (status, found["groups"]) == (200, ["course"])


def test_the_page_through_the_login_of_the_hub(hub: HubOfService) -> None:
    hub.home.overview.rows[0]["user"] = ANN
    status, text = fetch(hub.page, token=hub.token(ANN))
    assert status == 200 and "Your GPU shares" in text and "ann-a-secret" in text
    assert "bob-c-secret" not in text and "<form" not in text
    status, text = fetch(hub.page, token=hub.token(CAT))
    assert status == 200 and "GPU shares of all users" in text and "bob-c-secret" in text
    assert 'action="/hubs/services/gpu-share/do"' in text
    status, text = fetch(hub.page)  # to the Hub's login
    assert status == 200 and "Sign in" in text

    form = urlencode({"do": "end", "user": "bob", "server": "", "kernel": "c"}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = fetch(f"{hub.page}do", "POST", form, hub.token(ANN), **kind)
    assert refused == (403, "Only an administrator may do that.\n")
    assert not hub.home.overview.done
    assert fetch(f"{hub.page}do", "POST", form, hub.token(CAT), **kind)[0] == 200
    assert hub.home.overview.done == [("end", "bob", "", "c")]


def test_the_hub_killed_and_back(hub: HubOfService) -> None:
    bob = token_of_server(hub, BOB)
    assert start(hub, bob)[0] == 201
    unknown = hub.token(BOB)
    hub.kill()
    until(lambda: not who(hub, bob)[1]["fresh"], "its word is used up", 35)
    assert who(hub, bob)[0] == 200, "what runs goes on"
    status, found = start(hub, bob)
    assert status == 503 and "nothing new is started" in found["detail"]
    status, found = who(hub, unknown)
    assert status == 503 and "JupyterHub does not answer" in found["detail"]
    hub.start_again()
    until(lambda: start(hub, bob)[0] == 201, "it goes on as before", 40)
    assert who(hub, unknown)[0] == 200


@pytest.mark.parametrize("roles", [("user",), ("server",)])
def test_one_of_the_two_roles_is_not_enough(roles: tuple[str, ...]) -> None:
    with hub_of_service(*roles) as hub:
        status, found = who(hub, token_of_server(hub, ANN))
        assert status == 403
        assert SCOPE in found["detail"] and '"user"' in found["detail"]
        assert '"server"' in found["detail"]
