"""The routes of all users' kernels against their description."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any

import pytest
import yaml
from homes import FakeHome, User, fake_home
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from jupyter_gpu_share.broker.cluster.admin_routes import admin_routes
from jupyter_gpu_share.engines.user_limits import UserLimit

SPEC: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.broker.cluster").joinpath("openapi.yaml").read_text()
)
METHODS = ("get", "put", "patch", "post", "delete")


@pytest.fixture
async def home() -> AsyncIterator[FakeHome]:
    async with fake_home() as made:
        yield made


def fits(data: Any, schema: Any) -> None:
    Draft202012Validator({**schema, "components": SPEC["components"]}).validate(data)


async def test_it_is_openapi_and_names_every_route(home: FakeHome) -> None:
    validate(SPEC)
    administration: Any = None
    there = {
        (method, re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern))
        for pattern, handler, _ in [*home.routes(), *admin_routes(administration)]
        for method in METHODS
        if method in vars(handler)
    }
    told = {(m, path) for path, methods in SPEC["paths"].items() for m in methods}
    assert there == {(method, path) for method, path in told if method != "parameters"}


async def test_what_is_sent_and_answered_is_as_described(home: FakeHome) -> None:
    ann = home.user("ann")
    home.seen.limits = {
        "ann": [
            UserLimit("kernels", "group", "course", None, 3, 2),
            UserLimit("gpu_hours", "user", None, 7.0, 40.0, 40.5, datetime.now(timezone.utc)),
        ]
    }
    plan = ann.plan()
    attempt = {"attempt": plan["attempt"]}
    idle = {"idle_seconds": 1.0, "keep_seconds": None, "vacated": False}
    for method, path, body in (
        ("get", "/v1/machine", None),
        ("put", "/v1/shares/{kernel_id}", plan),
        ("get", "/v1/shares", None),
        ("get", "/v1/details", None),
        ("get", "/v1/shares/{kernel_id}/connection", None),
        ("get", "/v1/shares/{kernel_id}/log", None),
        ("post", "/v1/fits", {"kernel_id": "k", "sizes": ["1/4"]}),
        ("post", "/v1/rounding", {"size": "1/4"}),
        ("put", "/v1/idle", {"kernels": {"k": idle}}),
        ("patch", "/v1/shares/{kernel_id}", {**attempt, "path": None}),
        ("post", "/v1/shares/{kernel_id}/change", {**attempt, "size": "1/2", "dry_run": True}),
        ("post", "/v1/shares/{kernel_id}/release", attempt),
        ("post", "/v1/shares/{kernel_id}/take", attempt),
        ("post", "/v1/shares/{kernel_id}/withdraw", attempt),
        ("post", "/v1/shares/{kernel_id}/settle", attempt),
        ("post", "/v1/shares/{kernel_id}/leaving", {**attempt, "grace": 5}),
        ("post", "/v1/shares/{kernel_id}/let-go", attempt),
        ("delete", "/v1/servers/self", None),
    ):
        told = SPEC["paths"][path][method]
        if body is not None:
            fits(body, told["requestBody"]["content"]["application/json"]["schema"])
        status, answer = await ann.ask(method.upper(), path.replace("{kernel_id}", "k"), body)
        found = told["responses"][str(status)]["content"]["application/json"]["schema"]
        fits(answer, found)
        if path == "/v1/shares/{kernel_id}" and method == "put":
            await ann.until("k", "ready")


async def test_errors_are_problems_of_one_line(home: FakeHome) -> None:
    ann: User = home.user("ann")
    problem = SPEC["components"]["schemas"]["Problem"]
    for method, path, body, expected in (
        ("GET", "/v1/nothing", None, 404),
        ("PUT", "/v1/shares/k", {"attempt": "x"}, 400),
        ("PUT", "/v1/shares/a%20b", ann.plan(), 400),
        ("POST", "/v1/shares/k/release", {"attempt": "0" * 32}, 404),
    ):
        status, answer = await ann.ask(method, path, body)
        assert status == expected
        fits(answer, problem)
    ann.token = "0" * 32
    status, answer = await ann.ask("GET", "/v1/machine")
    assert status == 401
    fits(answer, problem)
