"""The page as a service of a Hub: its environment, its visitors, and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tornado import web
from traitlets.config import Config

from jupyter_gpu_share.broker.hub import (
    ADMINISTRATOR,
    LITTLEST,
    Service,
    share_gpus,
    share_gpus_of_cluster,
)
from jupyter_gpu_share.broker.hub._accounts import account_of
from jupyter_gpu_share.broker.hub._routes import own_part
from jupyter_gpu_share.broker.hub._visitors import FRESH, HubAway, Visitor, Visitors
from jupyter_gpu_share.broker.page import Seen
from jupyter_gpu_share.cli import main
from jupyter_gpu_share.errors import EngineError

ACCESS = "access:services!service=gpu-share"
TOLD = {
    "JUPYTERHUB_SERVICE_NAME": "gpu-share",
    "JUPYTERHUB_SERVICE_PREFIX": "/hubs/services/gpu-share/",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:1014",
    "JUPYTERHUB_API_TOKEN": "secret",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hubs/hub/api",
    "JUPYTERHUB_BASE_URL": "/hubs/",
}

# -- what the Hub tells it -----------------------------------------------------------------------


def test_it_knows_where_it_is() -> None:
    service = Service.of(TOLD)
    assert (service.host, service.port) == ("127.0.0.1", 1014)
    assert (service.hub.base, service.hub.prefix) == ("/hubs/hub/", "/hubs/services/gpu-share/")
    assert "secret" not in repr(service)


@pytest.mark.parametrize("name", sorted(set(TOLD) - {"JUPYTERHUB_BASE_URL"}))
def test_it_does_not_start_without(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for each, value in TOLD.items():
        monkeypatch.setenv(each, value)
    monkeypatch.setenv(name, "")
    assert main(["page", "--hub"]) == 1
    assert f"{name} is not set" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://127.0.0.1:1014", "http://127.0.0.1", "nothing"])
def test_an_address_that_it_cannot_have(url: str) -> None:
    with pytest.raises(EngineError, match="cannot listen"):
        Service.of({**TOLD, "JUPYTERHUB_SERVICE_URL": url})


# -- its visitors --------------------------------------------------------------------------------


class Hub:
    """What ``HubOAuth`` has, for one token."""

    access_scopes = frozenset({ACCESS})

    def __init__(self) -> None:
        self.answer: Any = {"kind": "user", "name": "root", "scopes": [ACCESS]}
        self.token = "token"

    async def get_user(self, handler: Any, *, sync: bool) -> Any:
        assert not sync
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def get_token(self, handler: Any) -> str:
        return self.token

    def get_session_id(self, handler: Any) -> str:
        return ""

    def check_scopes(self, required: frozenset[str], model: Any) -> set[str]:
        return set(required) & set(model["scopes"])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def visit(hub: Hub, account: str = "{name}", clock: Any = None) -> Visitor | None:
    return await Visitors(hub, account, ADMINISTRATOR, clock or Clock()).of(None)  # type: ignore[arg-type]


async def test_who_visits() -> None:
    hub = Hub()
    assert await visit(hub) == Visitor("root", "root", 0, administrator=False, allowed=True)
    hub.answer["scopes"].append(ADMINISTRATOR)
    found = await visit(hub, "jupyter-{name}")
    assert found == Visitor("root", "jupyter-root", None, administrator=True, allowed=True)
    hub.answer["scopes"] = [ADMINISTRATOR]
    found = await visit(hub)
    assert found is not None and not found.allowed
    hub.answer = {**hub.answer, "kind": "service", "scopes": [ACCESS, ADMINISTRATOR]}
    found = await visit(hub)
    assert found == Visitor("root", "root", None, administrator=False, allowed=False)
    hub.answer = None
    assert await visit(hub) is None


def test_users_of_the_littlest_jupyterhub() -> None:
    """As its ``tljh/normalize.py`` names them: no name of a user's choice is that of another."""
    assert account_of(LITTLEST, "ann") == "jupyter-ann"
    assert account_of(LITTLEST, "a" * 17) == "jupyter-" + "a" * 17
    assert account_of(LITTLEST, "a" * 18) != "jupyter-" + "a" * 18
    short = account_of(LITTLEST, "ann.of.the.mountains@example.org")
    assert short == "jupyter-ann.of.the.mountai-17b66"
    assert account_of(LITTLEST, short.removeprefix("jupyter-")) != short
    assert account_of("x-{name}", "{name}{tljh}") == "x-{name}{tljh}"


def test_all_users_are_not_one() -> None:
    with pytest.raises(EngineError, match="all users of the Hub would be one"):
        Visitors(Hub(), "root", ADMINISTRATOR)


async def test_while_the_hub_is_away_who_is_known_goes_on_for_two_minutes() -> None:
    """Its last word may be one that was kept for a while."""
    hub, clock = Hub(), Clock()
    visitors = Visitors(hub, "{name}", ADMINISTRATOR, clock)
    request: Any = None
    known = await visitors.of(request)
    hub.answer = web.HTTPError(500)
    clock.now = 120.0 - FRESH - 1
    assert await visitors.of(request) == known
    hub.token = "another"
    with pytest.raises(HubAway, match="The Hub does not answer"):
        await visitors.of(request)
    hub.token = "token"
    clock.now = 120.0 - FRESH + 1
    with pytest.raises(HubAway):
        await visitors.of(request)


async def test_who_was_refused_is_forgotten() -> None:
    hub = Hub()
    visitors = Visitors(hub, "{name}", ADMINISTRATOR, Clock())
    request: Any = None
    assert await visitors.of(request) is not None
    hub.answer = None
    assert await visitors.of(request) is None
    hub.answer = web.HTTPError(502)
    with pytest.raises(HubAway):
        await visitors.of(request)


def test_a_visitor_sees_their_own() -> None:
    """By number and kind: a group or another user may be named alike."""
    you = {"uid": 0, "user": "root", "administrator": True}
    waiting = [{"uid": 8, "user": "bob", "size": "1"}, {"uid": 7, "user": "ann", "size": "2"}]
    promise = {"due": "soon", "for": waiting}
    shares = [{"info": {"uid": uid, "user": "ann"}, "promise": promise} for uid in (7, 8)]
    usage = [{"of": of, "name": name} for of in ("user", "group") for name in ("ann", "bob")]
    processes = [{"uid": 7}]
    seen = Seen({"you": you, "gpus": []}, shares, usage, processes)
    ann = Visitor("ann", "ann", 7, administrator=False, allowed=True)
    own = own_part(seen, ann)
    (share,) = own.shares
    nobody = {"uid": None, "user": None, "size": "1"}
    assert share == {**shares[0], "promise": {"due": "soon", "for": [nobody, waiting[1]]}}
    assert own.usage == [usage[0]] and not own.processes
    assert own.machine["you"] == {"uid": 7, "user": "ann", "administrator": False}
    every = own_part(seen, Visitor("cat", "cat", None, administrator=True, allowed=True))
    assert (every.shares, every.usage, every.processes) == (shares, usage, processes)
    # What the broker shows to others than administrators is this process's own.
    small = Seen({"you": {**you, "user": "www", "administrator": False}, "gpus": []}, shares, usage)
    with pytest.raises(EngineError, match="The page runs as www"):
        own_part(small, ann)


# -- the Hub's configuration ---------------------------------------------------------------------


def configured(c: Config) -> Any:
    """What a Hub takes from a configuration."""
    from jupyterhub.app import JupyterHub

    return JupyterHub(config=c)


def test_a_configuration_with_nothing_else() -> None:
    c = Config()
    share_gpus(c, administrators=["cat"], groups=["staff"], account="jupyter-{name}")
    hub = configured(c)
    environment = c.Spawner.environment.get_value({})
    assert environment == {"JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner"}
    assert c.SystemdSpawner.unit_extra_properties.get_value({}) == {"KillMode": "mixed"}
    (service,) = hub.services
    assert service["command"][1:] == ["page", "--hub", "--account", "jupyter-{name}"]
    assert Path(service["command"][0]).name == "jupyter-gpu-share"
    assert service["oauth_client_allowed_scopes"] == [ADMINISTRATOR]
    assert set(hub.custom_scopes) == {ADMINISTRATOR}
    everybody, administrators = hub.load_roles
    assert everybody == {"name": "user", "scopes": ["self", ACCESS]}
    assert administrators["scopes"] == [ADMINISTRATOR, ACCESS]
    assert (administrators["users"], administrators["groups"]) == (["cat"], ["staff"])


def test_what_was_configured_before_stays() -> None:
    c = Config()
    c.JupyterHub.services = [{"name": "other"}]
    c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "shares!user"]}, {"name": "x"}]
    c.JupyterHub.custom_scopes = {"custom:other": {"description": "x"}}
    c.SystemdSpawner.unit_extra_properties = {"LimitNOFILE": "4096"}
    share_gpus(c)
    assert c.SystemdSpawner.unit_extra_properties == {"LimitNOFILE": "4096", "KillMode": "mixed"}
    hub = configured(c)
    assert [service["name"] for service in hub.services] == ["other", "gpu-share"]
    assert set(hub.custom_scopes) == {"custom:other", ADMINISTRATOR}
    user, *others = hub.load_roles
    assert user == {"name": "user", "scopes": ["self", "shares!user", ACCESS]}
    assert [role["name"] for role in others] == ["x", "gpu-share-admin"]


@pytest.mark.parametrize("kind", ["Spawner", "LocalProcessSpawner", "SimpleLocalProcessSpawner"])
def test_a_kind_of_spawner_may_have_an_environment_of_its_own(kind: str) -> None:
    """It counts instead of that of all spawners."""
    from jupyterhub import spawner

    c = Config()
    c[kind].environment = {"OTHER": "x"}
    c.JupyterHub.spawner_class = "simple"
    share_gpus(c)
    share_gpus_of_cluster(c, "http://b:8000", "t" * 32)
    for each in (spawner.Spawner, spawner.LocalProcessSpawner, spawner.SimpleLocalProcessSpawner):
        environment = each(config=c).environment
        assert environment["JUPYTER_DEFAULT_PROVISIONER_NAME"] == "gpu-share-provisioner"
        assert environment["JUPYTER_GPU_SHARE_BROKER"] == "http://b:8000/services/gpu-share"
    assert spawner.SimpleLocalProcessSpawner(config=c).environment["OTHER"] == "x"


def test_how_units_end_is_the_administrators_choice() -> None:
    c = Config()
    c.SystemdSpawner.unit_extra_properties = {"KillMode": "control-group"}
    share_gpus(c)
    assert c.SystemdSpawner.unit_extra_properties == {"KillMode": "control-group"}
