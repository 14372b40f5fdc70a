"""What administrators see and do of all users' shares, and what nobody else does."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import yaml
from fake_hub import model
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from ruled import Clock, FakeKernels, hold, key, ruled, wish
from served import PREFIX, Service

from jupyter_gpu_share.broker.cluster.admin import Administration
from jupyter_gpu_share.broker.cluster.admin_routes import admin_routes
from jupyter_gpu_share.broker.cluster.refusals import NoKernel
from jupyter_gpu_share.broker.cluster.rules import Rules
from jupyter_gpu_share.engines.base import Capacity
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.kubernetes import everybody

GIB = 2**30
SPEC: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.broker.cluster").joinpath("openapi.yaml").read_text()
)
HOSTILE = '=cmd|"a"!A1,\n<img onerror>'
PREFIX_OF_ALL = "jupyter_gpu_share_broker_"
ADMIN = "custom:gpu-share:admin"


class Office:
    """Administration over rules, and the service that its routes are in."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules, self.clock = rules, clock
        self.kernels = FakeKernels(rules)
        self.administration = Administration(rules, self.kernels)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    clock = Clock()
    async with ruled(tmp_path, clock, count=2) as (rules, _):
        yield Office(rules, clock)


@pytest.fixture
async def service(office: Office, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    routes = admin_routes(office.administration)
    monkeypatch.setattr("served.FakeHome.routes", lambda home: routes)
    found = Service()
    found.hub.tokens = {
        "of-ann-12345": model("ann"),
        "of-bob-12345": model("bob"),
        "of-root-1234": model("root", None, ADMIN),
        "of-user-1234": model("eve", None),
    }
    yield found
    await found.close()


# -- what is seen ----------------------------------------------------------------------------------


async def test_all_kernels_are_seen_with_their_users_and_states(office: Office) -> None:
    rules, clock = office.rules, office.clock
    hold(rules, wish("ann", "a", "1/2", server="lab"))
    clock.wait(10)
    hold(rules, wish("bob", "b", "1"))
    rules.idle.hear(
        '["ann", "lab", ', "i", {key("ann", "a", "lab").text: IdleShare(clock())}, clock()
    )
    assert rules.reserve(wish("eve", "w", "1")) is None
    hold(rules, wish("eve", "lent"))
    rules.gave_back(key("eve", "lent"))
    clock.wait(0.25)
    rows = {row["kernel_id"]: row for row in office.administration.everything()}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a": "held",
        "b": "held",
        "w": "waiting",
        "lent": "lent",
    }
    assert (rows["a"]["user"], rows["a"]["server"]) == ("ann", "lab")
    assert rows["a"]["info"] == {
        "user": "ann",
        "server": "lab",
        "path": "a.ipynb",
        "kernel_name": "python3",
    }
    assert rows["a"]["idle_seconds"] == 15
    assert rows["a"]["held_since"] < rows["b"]["held_since"]
    assert rows["w"]["held_since"] is None
    assert [row["kernel_id"] for row in office.administration.everything("bob")] == ["b"]


async def test_the_account_is_by_user_and_group_and_a_table_has_no_formulas(
    office: Office,
) -> None:
    rules, clock = office.rules, office.clock
    hold(rules, wish(HOSTILE, "a", "1/2", "staff"))
    hold(rules, wish("bob", "b", "1", "staff"))
    clock.wait(60)
    rules.gave_back(key("bob", "b"))
    clock.wait(60)
    rows = {(row["of"], row["name"]): row for row in await office.administration.usage()}
    assert rows["user", "bob"]["held"] == rows["user", "bob"]["given_back"] == 3600
    assert rows["user", HOSTILE]["used"] == 3600
    assert rows["group", "staff"]["held"] == 7200
    own = await office.administration.usage("bob")
    assert [(row["of"], row["name"]) for row in own] == [("user", "bob")]
    table = list(csv.reader(io.StringIO(await office.administration.usage_csv())))
    assert table[0] == ["day", "of", "name", "held", "used", "idle", "given_back"]
    assert [row[2] for row in table[1:] if row[1] == "user"] == ["'" + HOSTILE, "bob"]


async def test_a_row_has_the_whole_share_and_is_as_described(office: Office) -> None:
    devices = [{"uuid": f"GPU-{n}", "model": "A100", "node": "n1"} for n in range(2)]
    office.kernels.share = {
        "devices": devices,
        "memory_bytes": 40 * GIB,
        "fraction": "1/2",
        "isolation": "framework",
        "simulated": True,
    }
    hold(office.rules, wish("ann", "a", "2x1/2", server="lab"))
    assert office.rules.reserve(wish("bob", "w", "2x1")) is None
    rows = {row["kernel_id"]: row for row in office.administration.everything()}
    schema = {**SPEC["components"]["schemas"]["AnyRow"], "components": SPEC["components"]}
    for row in rows.values():
        Draft202012Validator(schema).validate(row)
    assert rows["a"]["share"] == office.kernels.share
    assert [piece["memory_bytes"] for piece in rows["a"]["pieces"]] == [40 * GIB, 40 * GIB]
    assert rows["w"]["share"] is None and rows["w"]["pieces"] == []
    machine = {
        "version": "1",
        "engine": "kubernetes",
        "backend": "dra",
        "style": "lease",
        "place": "here",
        "gpus": [],
        "memory_to_come": [],
        "paused": False,
        "you": {"user": "root", "server": None, "groups": [], "administrator": True},
        "kernels": {"python": "python3", "renewal": 1.0, "encrypt": True},
    }
    shown = {each.kernel_id: each for each in everybody(list(rows.values()), machine)[0]}
    share = shown["a"].share
    assert share is not None and share.to_json() == office.kernels.share
    assert shown["a"].user == "ann/lab"


# -- what is done ----------------------------------------------------------------------------------


async def test_a_kernel_is_ended_and_a_share_asked_back_by_the_whole_name(office: Office) -> None:
    rules = office.rules
    hold(rules, wish("ann", "k", server="lab"))
    for wrong in (key("ann", "k"), key("bob", "k", "lab"), key("ann", "other", "lab")):
        with pytest.raises(NoKernel):
            office.administration.end(wrong, "root")
        with pytest.raises(NoKernel):
            office.administration.ask_back(wrong, "root")
    office.administration.ask_back(key("ann", "k", "lab"), "root")
    assert rules.orders.asked([key("ann", "k", "lab").text])
    assert [row["asked_back"] for row in office.administration.everything()] == [True]
    office.administration.end(key("ann", "k", "lab"), "root")
    assert [ended for ended, _ in office.kernels.ended] == [key("ann", "k", "lab")]
    hold(rules, wish("ann", "k", server="lab"))
    assert not rules.orders.asked([key("ann", "k", "lab").text]), "it was about the other one"


# -- over HTTP -------------------------------------------------------------------------------------


async def test_nobody_but_administrators_learns_of_others(service: Service, office: Office) -> None:
    hold(office.rules, wish("ann", "k", server="lab"))
    paths = [
        ("GET", "admin/shares"),
        ("GET", "admin/usage"),
        ("GET", "admin/usage?format=csv"),
        ("GET", "metrics"),
        ("PUT", "admin/pause"),
        ("DELETE", "admin/shares/ann/lab/k"),
        ("DELETE", "admin/shares/ann/lab/none"),
        ("POST", "admin/shares/ann/lab/k/release"),
    ]
    for method, path in paths:
        body = {"paused": True} if method == "PUT" else {} if method == "POST" else None
        for token, status in ((None, 401), ("of-ann-12345", 403), ("of-user-1234", 403)):
            told = await service.told(method, f"{PREFIX}v1/{path}", body, token)
            assert told[0] == status, (method, path, token)
            assert "lab" not in told[1]["detail"]
    assert not office.kernels.ended
    assert not office.rules.paused


async def test_an_administrator_looks_and_acts(service: Service, office: Office) -> None:
    token = "of-root-1234"
    hold(office.rules, wish("ann", "k1"))
    hold(office.rules, wish("a/b c", "k2", server="lab"))
    status, rows = await service.told("GET", f"{PREFIX}v1/admin/shares", None, token)
    assert status == 200
    assert {row["user"] for row in rows} == {"ann", "a/b c"}
    base = f"{PREFIX}v1/admin/shares"
    assert await service.told("POST", f"{base}/ann//k1/release", {}, token) == (
        200,
        {"asked": True},
    )
    assert (await service.told("DELETE", f"{base}/ann/lab/k1", None, token))[0] == 404
    told = await service.told("DELETE", f"{base}/a%2Fb%20c/lab/k2", None, token)
    assert told == (200, {"ended": True})
    assert [each for each, _ in office.kernels.ended] == [key("a/b c", "k2", "lab")]
    assert (await service.told("PUT", f"{PREFIX}v1/admin/pause", {}, token))[0] == 400
    told = await service.told("PUT", f"{PREFIX}v1/admin/pause", {"paused": True}, token)
    assert told == (200, {"paused": True})
    assert office.rules.paused
    answer = await service.ask("GET", f"{PREFIX}v1/admin/usage?format=csv", None, token)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert (await service.told("GET", f"{PREFIX}v1/usage?format=x", None, token))[0] == 400


async def test_users_see_their_own_hours(service: Service, office: Office) -> None:
    hold(office.rules, wish("ann", "a"))
    hold(office.rules, wish("bob", "b"))
    office.clock.wait(60)
    status, rows = await service.told("GET", f"{PREFIX}v1/usage", None, "of-bob-12345")
    assert (status, [row["name"] for row in rows]) == (200, ["bob"])
    answer = await service.ask("GET", f"{PREFIX}v1/usage?format=csv", None, "of-ann-12345")
    assert b"bob" not in answer.body
    assert b"ann" in answer.body


# -- metrics ---------------------------------------------------------------------------------------

#: What promtool says of metrics (its documentation, and that of naming): see `lint`.
_ABBREVIATED = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
_OTHER_UNITS = {
    *("milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"),
    *("kilobytes", "megabytes", "gigabytes", "terabytes", "kibibytes", "mebibytes", "gibibytes"),
    *("bits", "percent", "celsius", "kelvins", "fahrenheit"),
}
_KINDS = {"counter", "gauge", "histogram", "summary"}


def lint(text: str) -> list[str]:
    """What ``promtool check metrics`` would say."""
    problems = []
    for family in text_string_to_metric_families(text):
        words = family.name.split("_")
        names = {sample.name for sample in family.samples}
        if not family.documentation:
            problems.append(f"{family.name}: no help text")
        if family.type == "unknown":
            problems.append(f"{family.name}: no type")
        if family.type == "counter" and not all(name.endswith("_total") for name in names):
            problems.append(f"{family.name}: counters end in _total")
        if family.type != "counter" and family.name.endswith("_total"):
            problems.append(f"{family.name}: only counters end in _total")
        if family.type not in ("histogram", "summary") and re.search(
            r"_(count|sum|bucket)$", family.name
        ):
            problems.append(f"{family.name}: no histogram, and a suffix of one")
        if set(words) & (_OTHER_UNITS - {"celsius"}):
            problems.append(f"{family.name}: base units are seconds and bytes")
        if words[-1] in _ABBREVIATED:
            problems.append(f"{family.name}: units are not abbreviated")
        if set(words) & _KINDS:
            problems.append(f"{family.name}: the type is no part of the name")
        if ":" in family.name or re.search(r"[a-z][A-Z]", family.name):
            problems.append(f"{family.name}: written like this_one")
        labels = {label for sample in family.samples for label in sample.labels}
        if family.type not in ("histogram", "summary") and labels & {"le", "quantile"}:
            problems.append(f"{family.name}: a label of histograms")
        if any(re.search(r"[A-Z]", label) for label in labels):
            problems.append(f"{family.name}: labels are written like_this")
    return problems


def test_lint_finds_what_is_wrong() -> None:
    wrong = (
        "# HELP a_milliseconds x\n# TYPE a_milliseconds gauge\na_milliseconds 1\n"
        "# HELP b_total x\n# TYPE b_total gauge\nb_total 1\n"
        "# TYPE cD gauge\ncD 1\n"
    )
    assert len(lint(wrong)) == 4


async def test_metrics_are_as_prometheus_wants_them_and_name_nobody(
    service: Service, office: Office
) -> None:
    hold(office.rules, wish("ann-secret", "a", "1/2", "group-secret"))
    assert office.rules.reserve(wish("bob", "w", "2x1")) is None
    hold(office.rules, wish("eve", "lent"))
    office.rules.gave_back(key("eve", "lent"))
    office.clock.wait(1)
    answer = await service.ask("GET", f"{PREFIX}v1/metrics", None, "of-root-1234")
    assert answer.code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.body.decode()
    assert lint(text) == []
    assert "secret" not in text
    assert "bob" not in text
    found: dict[Any, float] = {
        (
            sample.name.removeprefix("jupyter_gpu_share_broker_"),
            *sample.labels.values(),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["kernels", "used"] == 1
    assert found["kernels", "waiting"] == 1
    assert found["held_gpu_seconds_total", "used"] == 30
    assert found["given_back_gpu_seconds_total",] == 15
    assert found["wait_seconds_count",] == 2
    assert not any(name.startswith("unshared") for name, *_ in found), "nobody can see those"


async def test_gpus_of_drivers_that_tell_no_uuid_are_told_apart(tmp_path: Path) -> None:
    """Else Prometheus refuses all of it."""
    async with ruled(tmp_path, Clock()) as (rules, sight):
        names = (("gpu-0", "n1"), ("gpu-0", "n2"), ("gpu-0", "n2"), ("GPU-9", "n3"))
        gpus = [Capacity(uuid, "A100", node, GIB, GIB) for uuid, node in names]
        sight.gpus = AsyncMock(return_value=gpus)  # type: ignore[method-assign]
        text = (await Administration(rules, FakeKernels(rules)).metrics()).decode()
        found = [
            sample.labels["gpu"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.endswith("gpu_memory_free_bytes")
        ]
        assert found == ["n1/gpu-0", "n2/gpu-0", "n2/gpu-0#2", "GPU-9"]


async def test_metrics_name_users_if_the_administrator_says_so(tmp_path: Path) -> None:
    clock = Clock()
    async with ruled(tmp_path, clock, metrics_by_user=True) as (rules, _):
        hold(rules, wish(HOSTILE, "a"))
        clock.wait(1)
        text = (await Administration(rules, FakeKernels(rules)).metrics()).decode()
        assert lint(text) == []
        users = {
            sample.labels["user"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "user" in sample.labels
        }
        assert users == {HOSTILE}
