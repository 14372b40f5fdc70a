"""The broker's routes against their description, and its events."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker_users import ANN, BOB, RunningBroker, User
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jupyter_gpu_share.broker.api import Desk, application
from jupyter_gpu_share.broker.client import BrokerClient, BrokerRefused
from jupyter_gpu_share.broker.events import Events
from jupyter_gpu_share.broker.identity import Accounts
from jupyter_gpu_share.broker.store import Store

SPEC: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.broker").joinpath("openapi.yaml").read_text()
)


def test_the_description_is_openapi_and_names_every_route(tmp_path: Path) -> None:
    validate(SPEC)
    events = Events()
    desk = Desk(Store(tmp_path / "state", events), events, Accounts())
    (rules,) = [rule.target.rules for rule in application(desk).default_router.rules[:1]]
    there: set[tuple[str, str]] = set()
    for rule in rules:
        path = rule.matcher.regex.pattern.removesuffix("$")
        path = path.replace(r"(?P<kernel_id>[^/]+)", "{kernel_id}")
        path = path.replace(r"(?P<uid>\d{1,10})", "{uid}")
        for method in ("get", "put", "patch", "post", "delete"):
            if method in vars(rule.target):
                there.add((method, path))
    told = {
        (method, path)
        for path, methods in SPEC["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert there == told


def check(name: str, data: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}
    Draft202012Validator(schema).validate(data)


def test_answers_are_as_described(broker: RunningBroker, ann: User, bob: User) -> None:
    claim = ann.claim("a", "3/4", info={"path": "x.ipynb", "kernel_name": "python3"})
    check("OwnClaim", claim)
    assert claim["state"] == "held"
    assert claim["pid"] == ann.pid
    waiting = bob.claim("b", "1/2", info={"path": None})
    assert waiting["state"] == "waiting"
    assert waiting["reason"] == (
        "It needs 40 GiB of one GPU; the emptiest has 20 GiB of 80 GiB free."
    )
    assert (waiting["queue"]["position"], waiting["queue"]["of"]) == (1, 1)
    check("Queue", bob.ok("GET", "/v1/queue"))
    machine = bob.ok("GET", "/v1/machine")
    check("Machine", machine)
    you = {"uid": BOB, "user": f"uid {BOB}", "administrator": False, "limits": []}
    assert machine["you"] == you
    assert machine["gpus"][0]["held_bytes"] == 60 * 2**30
    assert bob.ok("POST", "/v1/fits", {"sizes": ["0"], "kernel_id": None}) == [None]
    changed = ann.ok("POST", "/v1/shares/a/change", {"size": "1/4"})
    check("Claim", changed)
    assert bob.kernels() == {"b": "held"}
    assert ann.ok("POST", "/v1/shares/a/change", {"size": "1"}) is None
    root = BrokerClient(broker.socket)
    for row in root.ask("GET", "/v1/admin/shares"):
        check("Claim", row)
    with pytest.raises(BrokerRefused, match=f"User {ANN} has no kernel zzz with a claim"):
        root.ask("DELETE", f"/v1/admin/shares/{ANN}/zzz")
    root.close()
    assert ann.ask("GET", "/v1/nothing") == (404, "There is nothing at this address.")
    assert ann.ask("PATCH", "/v1/shares/none", {}) == (404, "The kernel has no claim.")


def test_asking_again_changes_nothing(ann: User, bob: User) -> None:
    """Where an answer was lost, the request is sent again."""
    first = ann.claim("a", "1")
    assert ann.claim("a", "1") == first
    bob.claim("b", "1")
    ann.claim("c", "1")
    assert bob.claim("b", "1")["queue"] == {"position": 1, "of": 2}
    assert ann.ok("DELETE", "/v1/shares/a") == {"released": True}
    assert ann.ok("DELETE", "/v1/shares/a") == {"released": False}
    assert bob.kernels() == {"b": "held"}


def test_idle_shares_of_all_users_stand_in_one_order(ann: User, bob: User) -> None:
    """One waits for a quarter: the longest idle kernel goes, whoever looks first, and no other."""
    ann.claim("a1", "1/2")
    ann.claim("a2", "1/4")
    bob.claim("b", "1/4")
    nothing = {"wanted": {}, "taken": [], "waiting": False}
    idle_of_ann, idle_of_bob = {"a1": 1000.0, "a2": 500.0}, {"b": 5000.0}
    assert ann.ok("PUT", "/v1/idle", {"kernels": idle_of_ann}) == nothing
    assert bob.ok("PUT", "/v1/idle", {"kernels": idle_of_bob}) == nothing
    ann.claim("new", "1/4")
    for _ in range(2):
        assert wanted(ann, idle_of_ann) == []
        assert wanted(bob, idle_of_bob) == ["b"]
    assert wanted(bob, {}) == []
    assert wanted(ann, idle_of_ann) == ["a1"]


def wanted(person: User, idle: dict[str, float]) -> list[str]:
    answer = person.ok("PUT", "/v1/idle", {"kernels": idle})
    check("AskedBack", answer)
    assert answer["waiting"] is True
    return list(answer["wanted"])


# -- events --------------------------------------------------------------------------------------


def test_a_stream_tells_what_happens_and_goes_on_where_it_stopped(broker: RunningBroker) -> None:
    root = BrokerClient(broker.socket)
    stream = root.events()
    seen = iter(stream)
    assert next(seen)[1:] == ("reset", {"shares": []})
    root.ask("PUT", "/v1/shares/a", {"size": "1"})
    last, kind, row = next(seen)
    assert (kind, row["kernel_id"], row["state"]) == ("share", "a", "held")
    assert "token" not in row
    stream.stop()
    assert list(seen) == []
    stream.close()
    root.ask("PUT", "/v1/shares/b", {"size": "1"})
    root.ask("DELETE", "/v1/shares/a")
    again = root.events(last)
    told = iter(again)
    assert next(told)[1:] == ("wanted", {})
    found = [next(told)[1:] for _ in range(3)]
    again.close()
    assert [(kind, data["kernel_id"]) for kind, data in found] == [
        ("share", "b"),
        ("share", "b"),
        ("ended", "a"),
    ]
    assert found[1][1]["state"] == "held"
    other = root.events("000000000000-1")
    assert next(iter(other))[1] == "reset", "an id of another broker"
    other.close()
    root.close()


async def test_what_is_forgotten_is_told_anew_and_nobody_hears_of_others() -> None:
    events = Events()
    for number in range(1500):
        events.publish(number % 2, "share", {"n": number})
    number, found = await events.after(0, 1)
    assert (number, found) == (1500, None)
    number, found = await events.after(1490, 1)
    assert found is not None
    assert [event.data["n"] for event in found] == [1491, 1493, 1495, 1497, 1499]
    waiting = asyncio.create_task(events.after(number, 1))
    events.publish(0, "share", {"n": "of another"})
    events.publish(None, "ended", {"n": "everybody's"})
    _, found = await asyncio.wait_for(waiting, 10)
    assert found is not None
    assert [event.data["n"] for event in found] == ["everybody's"]
    assert events.resumed(None) is None
    assert events.resumed("x-1") is None
    name = events.text(1, "x", {}).partition("id: ")[2].partition("-")[0]
    assert events.resumed(f"{name}-1502") == 1502
    assert events.resumed(f"{name}-502") == 502
    assert events.resumed(f"{name}-501") is None, "what came after it is forgotten"
    assert events.resumed(f"{name}-1503") is None, "it has not happened"
