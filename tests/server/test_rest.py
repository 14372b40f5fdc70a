"""The REST routes of a real server, held against the OpenAPI file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate
from servers import TOKEN, Server, run_server, stop_server
from tornado import web
from waiting import PATIENCE

GIB = 2**30
SPEC: dict[str, Any] = yaml.safe_load(
    files("jupyter_gpu_share.server").joinpath("openapi.yaml").read_text()
)
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def conforms(path: str, method: str, status: int, body: Any) -> None:
    """Hold an answer against the OpenAPI file."""
    response = SPEC["paths"][path][method.lower()]["responses"][str(status)]
    if "$ref" in response:
        response = SPEC["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response["content"]["application/json"]["schema"]
    check(schema, body)


def check(schema: dict[str, Any], value: Any) -> None:
    """Hold a value against a schema of the file, formats of ids and times included."""
    rules = {**schema, "components": SPEC["components"]}
    Draft202012Validator(rules, format_checker=FormatChecker()).validate(value)


def ask(server: Server, path: str, method: str = "GET", body: Any = None, **where: str) -> Any:
    """Fetch, check against the file, return status and body."""
    url = path.format(**where).removeprefix("/")
    status, found = server.fetch(url, method, body)
    conforms(path, method, status, found)
    return status, found


ALL = [
    ("/gpu-share/status", "GET"),
    ("/gpu-share/sizes", "GET"),
    ("/gpu-share/choices", "GET"),
    ("/gpu-share/choices", "PUT"),
    ("/gpu-share/requests/{kernel_id}", "PUT"),
    ("/gpu-share/allocations", "GET"),
    ("/gpu-share/allocations/{kernel_id}", "GET"),
    ("/gpu-share/allocations/{kernel_id}", "PATCH"),
    ("/gpu-share/allocations/{kernel_id}/release", "POST"),
    ("/gpu-share/allocations/{kernel_id}/wake", "POST"),
    ("/gpu-share/allocations/{kernel_id}/kept", "GET"),
    ("/gpu-share/allocations/{kernel_id}/kept", "DELETE"),
    ("/gpu-share/history/{kernel_id}", "GET"),
]
METHODS = ("GET", "PUT", "PATCH", "POST", "DELETE")


def test_the_file_is_valid_and_names_every_route() -> None:
    validate(SPEC)
    from jupyter_gpu_share.server._handlers import ROUTES

    served = set()
    for pattern, handler in ROUTES:
        path = pattern.replace("(?P<kernel_id>[^/]+)", "{kernel_id}")
        served |= {(path, m) for m in METHODS if m.lower() in vars(handler)}
    named = {(p, m.upper()) for p, item in SPEC["paths"].items() for m in item if m != "parameters"}
    assert served == named == set(ALL)


def _examples(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every schema of the file that has an example, with the example."""
    if isinstance(node, list):
        for one in node:
            yield from _examples(one)
    elif isinstance(node, dict):
        if "schema" in node:
            shown = [row["value"] for row in node.get("examples", {}).values()]
            yield from ((node["schema"], value) for value in shown)
            if "example" in node:
                yield node["schema"], node["example"]
        elif isinstance(node.get("examples"), list):
            yield from ((node, value) for value in node["examples"])
        for one in node.values():
            yield from _examples(one)


def test_the_examples_in_the_file_are_right() -> None:
    found = list(_examples(SPEC))
    assert len(found) >= 12
    for schema, value in found:
        check(schema, value)


def test_status_and_sizes(clean: Server) -> None:
    clean.wait_for(clean.start_kernel("3/4"), "active")
    status, found = ask(clean, "/gpu-share/status")
    assert status == 200
    assert found["simulated"] is True
    assert found["gpus"][0]["free_bytes"] == 20 * GIB
    assert found["kernels"] == {"active": 1}
    _, sizes = ask(clean, "/gpu-share/sizes")
    rows = {row["size"]: row for row in sizes["sizes"]}
    assert rows["1/4"]["available"]
    assert not rows["1/2"]["available"]
    assert "20 GiB" in rows["1/2"]["why"]
    assert rows["0"]["available"]
    assert rows["1/2"]["memory_bytes"] == [40 * GIB, 40 * GIB]
    assert rows["0"]["memory_bytes"] is None


def test_no_kernel_stands_in_its_own_way(clean: Server) -> None:
    holder = clean.start_kernel("3/4")
    waiter = clean.start_kernel("1/2")
    clean.wait_for(waiter, "queued")

    def free(kernel_id: str = "") -> dict[str, bool]:
        status, found = clean.fetch(f"gpu-share/sizes?kernel_id={kernel_id}")
        conforms("/gpu-share/sizes", "GET", status, found)
        return {row["size"]: row["available"] for row in found["sizes"]}

    # A new one comes after the one that waits, which could have a quarter now.
    assert free() == {"1/4": False, "1/2": False, "1": False, "0": True}
    assert free(waiter) == {"1/4": True, "1/2": False, "1": False, "0": True}
    # Who holds a share has its room already, and what is more comes after those who wait.
    assert free(holder) == {"1/4": True, "1/2": True, "1": False, "0": True}
    status, found = clean.fetch(f"gpu-share/sizes?kernel_id={UNKNOWN}")
    conforms("/gpu-share/sizes", "GET", status, found)
    assert status == 404


def test_the_history_of_a_kernel_is_kept_by_the_server(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")

    def history() -> Any:
        status, found = ask(clean, "/gpu-share/history/{kernel_id}", kernel_id=kernel_id)
        assert status == 200
        return found

    end = time.monotonic() + PATIENCE
    while not (found := history())["samples"]["used_bytes"]:
        assert time.monotonic() < end, "no reading has come"
        time.sleep(0.1)
    assert found["held_since"] is not None
    assert [span["memory_bytes"] for span in found["spans"]] == [20 * GIB]
    clean.ok(f"gpu-share/allocations/{kernel_id}/release", "POST", {"lose_variables": True})
    found = history()
    assert found["held_since"] is None
    assert found["spans"][-1]["ended_by"] == "release"
    assert found["samples"]["used_bytes"]
    assert found["gpu_hours"] > 0
    status, _ = ask(clean, "/gpu-share/history/{kernel_id}", kernel_id=UNKNOWN)
    assert status == 404


def test_a_kernel_gets_the_size_asked_for(clean: Server) -> None:
    kernel_id = str(uuid4())
    status, found = ask(
        clean, "/gpu-share/requests/{kernel_id}", "PUT", {"size": "0.5"}, kernel_id=kernel_id
    )
    assert (status, found["size"]) == (200, "1/2")
    clean.start_kernel(kernel_id=kernel_id)
    _, row = ask(clean, "/gpu-share/allocations/{kernel_id}", kernel_id=kernel_id)
    assert row["share"]["memory_bytes"] == 40 * GIB
    assert row["state"] == "active"
    _, rows = ask(clean, "/gpu-share/allocations")
    assert [one["kernel_id"] for one in rows] == [kernel_id]
    status, found = ask(
        clean, "/gpu-share/requests/{kernel_id}", "PUT", {"size": "1"}, kernel_id=kernel_id
    )
    assert status == 409


def test_a_kernel_apart_from_a_session_is_known_by_the_path_asked_for(clean: Server) -> None:
    kernel_id = str(uuid4())
    wanted = {"size": "1/4", "path": "/folder/a.ipynb"}
    status, found = ask(
        clean, "/gpu-share/requests/{kernel_id}", "PUT", wanted, kernel_id=kernel_id
    )
    assert status == 200, found
    clean.start_kernel(kernel_id=kernel_id)
    _, row = ask(clean, "/gpu-share/allocations/{kernel_id}", kernel_id=kernel_id)
    assert row["path"] == "folder/a.ipynb"
    clean.ok(f"api/kernels/{kernel_id}/restart", "POST", {})
    _, row = ask(clean, "/gpu-share/allocations/{kernel_id}", kernel_id=kernel_id)
    assert (row["path"], row["size"]) == ("folder/a.ipynb", "1/4")


def test_a_change_of_size_keeps_variables_or_needs_leave_to_lose_them(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    path = "/gpu-share/allocations/{kernel_id}"
    clean.run_cell(kernel_id, "x = 41")
    look = {"size": "1/2", "dry_run": True}
    status, row = ask(clean, path, "PATCH", look, kernel_id=kernel_id)
    assert (status, row["size"], row["kept"]["how"]) == (200, "1/4", "in-place")
    status, row = ask(clean, path, "PATCH", {"size": "1/2"}, kernel_id=kernel_id)
    assert (status, row["size"], row["share"]["memory_bytes"]) == (200, "1/2", 40 * GIB)
    assert clean.run_cell(kernel_id, "print(x + 1); g = (n for n in range(3))") == "42"
    status, row = ask(clean, path, "PATCH", {"size": "1/4"}, kernel_id=kernel_id)
    assert (status, row["share"]["memory_bytes"]) == (200, 20 * GIB)
    assert clean.run_cell(kernel_id, "print(next(g))") == "0"
    look = {"size": "0", "dry_run": True}
    _, row = ask(clean, path, "PATCH", look, kernel_id=kernel_id)
    assert row["kept"] == {"how": "snapshot", "lost": ["generator `g`"]}
    status, found = ask(clean, path, "PATCH", {"size": "0"}, kernel_id=kernel_id)
    assert status == 409
    assert "would lose generator `g`" in found["message"]
    assert "allow the loss (lose_variables)" in found["message"]
    lose = {"size": "0", "lose_variables": True}
    status, row = ask(clean, path, "PATCH", lose, kernel_id=kernel_id)
    assert (status, row["size"]) == (200, "0")
    clean.start_kernel("1/4")
    status, found = ask(clean, path, "PATCH", {"size": "1", "restart": True}, kernel_id=kernel_id)
    assert status == 409
    assert "cannot become 1 now" in found["message"]
    assert clean.ok(f"gpu-share/allocations/{kernel_id}")["size"] == "0"


def test_what_a_release_would_keep_is_told_without_doing_it(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    release = "/gpu-share/allocations/{kernel_id}/release"
    status, row = ask(clean, release, "POST", {"dry_run": True}, kernel_id=kernel_id)
    assert (status, row["kept"]["how"]) == (200, "in-place")
    assert row["share"] is not None


def test_keep(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    path = "/gpu-share/allocations/{kernel_id}"
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    _, row = ask(clean, path, "PATCH", {"keep_until": soon}, kernel_id=kernel_id)
    assert row["keep_until"][:19] == soon[:19]
    _, row = ask(clean, path, "PATCH", {"keep_until": None}, kernel_id=kernel_id)
    assert row["keep_until"] is None
    status, found = ask(
        clean, path, "PATCH", {"keep_until": "2999-01-01T00:00:00Z"}, kernel_id=kernel_id
    )
    assert status == 409
    assert "24 hours" in found["message"]


def test_release_and_wake(clean: Server) -> None:
    kernel_id = clean.start_kernel("3/4")
    release = "/gpu-share/allocations/{kernel_id}/release"
    status, row = ask(clean, release, "POST", kernel_id=kernel_id)
    assert (status, row["state"], row["share"]) == (200, "released", None)
    assert row["kept"] == {"how": "in-place", "lost": []}
    status, _ = ask(clean, "/gpu-share/allocations/{kernel_id}/wake", "POST", kernel_id=kernel_id)
    assert status == 200
    assert clean.wait_for(kernel_id, "active")["share"]["fraction"] == "3/4"


def test_what_is_lost_can_be_read_and_forgotten(clean: Server) -> None:
    kernel_id = clean.start_kernel("3/4")
    for method in ("GET", "DELETE"):
        path = "/gpu-share/allocations/{kernel_id}/kept"
        status, found = ask(clean, path, method, kernel_id=kernel_id)
        assert (status, found) == (200, {"kernel_id": kernel_id, "lost": [], "aside": []})


def test_a_queued_kernel_is_shown_and_can_leave(clean: Server) -> None:
    first, second = clean.start_kernel("3/4"), clean.start_kernel("3/4")
    _, row = ask(clean, "/gpu-share/allocations/{kernel_id}", kernel_id=second)
    assert (row["state"], row["queue"]) == ("queued", {"position": 1, "of": 1})
    assert clean.ok("gpu-share/status")["queue"] == 1
    release = "/gpu-share/allocations/{kernel_id}/release"
    _, row = ask(clean, release, "POST", kernel_id=second)
    assert row["state"] == "released"
    clean.ok(f"gpu-share/allocations/{second}/wake", "POST")
    clean.wait_for(second, "waking")
    clean.fetch(f"api/kernels/{first}", "DELETE")
    clean.wait_for(second, "active")


BAD = [
    ("PUT", "gpu-share/requests/{id}", {"size": "3/2"}, 400, "the largest size here is 1"),
    ("PUT", "gpu-share/requests/{id}", {"size": 4}, 400, "wrong type"),
    ("PUT", "gpu-share/requests/{id}", {}, 400, "missing"),
    ("PUT", "gpu-share/requests/{id}", {"size": "1/4", "image": "x"}, 400, "no field 'image'"),
    ("PUT", "gpu-share/requests/{id}", {"size": "1/4", "path": "../x"}, 400, "within"),
    ("PUT", "gpu-share/requests/{id}", {"size": "1/4", "path": "a\nb"}, 400, "within"),
    ("PUT", "gpu-share/requests/{id}", {"size": "1/4", "path": "x" * 5000}, 400, "within"),
    ("PUT", "gpu-share/requests/{id}", b"{", 400, "not valid JSON"),
    ("PUT", "gpu-share/requests/{id}", b"[]", 400, "JSON object"),
    ("PUT", "gpu-share/requests/{id}", b"[" * 60_000, 400, "JSON"),
    ("PUT", "gpu-share/requests/{id}", b" " * 70_000, 413, "larger than"),
    ("PUT", "gpu-share/requests/no-uuid", {"size": "1/4"}, 400, "UUID"),
    ("PUT", "gpu-share/requests/{id}", {"size": "100%s"}, 400, "100%s"),
    ("GET", "gpu-share/allocations/{id}", None, 404, "no kernel with that id"),
    ("PATCH", "gpu-share/allocations/{id}", {"size": "1/4"}, 404, "no kernel with that id"),
    ("POST", "gpu-share/allocations/{id}/release", {}, 404, "no kernel with that id"),
    ("POST", "gpu-share/allocations/{id}/wake", {}, 404, "no kernel with that id"),
    ("GET", "gpu-share/allocations/{id}/kept", None, 404, "no kernel with that id"),
    ("DELETE", "gpu-share/allocations/{id}/kept", None, 404, "no kernel with that id"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "says"), BAD)
def test_bad_requests(
    server: Server, method: str, path: str, body: Any, status: int, says: str
) -> None:
    found_status, found = server.fetch(path.format(id=UNKNOWN), method, body)
    assert found_status == status, found
    assert says in found["message"]
    assert "\n" not in found["message"]


BAD_TIMES = [
    "",
    "soon",
    "2026-03-01",
    "2026-03-01T12:00:00",
    "2126-02-30T12:00:00Z",
    "2000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]


def test_bad_times(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    path = "/gpu-share/allocations/{kernel_id}"
    for text in BAD_TIMES:
        status, found = ask(clean, path, "PATCH", {"keep_until": text}, kernel_id=kernel_id)
        assert (status, found["message"].startswith("keep_until is")) == (400, True), text
    status, _ = ask(clean, path, "PATCH", {"restart": True}, kernel_id=kernel_id)
    assert status == 400
    _, rows = ask(clean, "/gpu-share/allocations")
    assert rows[0]["keep_until"] is None


def test_times_as_the_standard_has_them(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    path = "/gpu-share/allocations/{kernel_id}"
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 7200))
    early = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 3600))
    for text, shown in (
        (f"{soon}.5Z", f"{soon}.500Z"),
        (f"{soon.lower()}.123456789z", f"{soon}.123Z"),
        (f"{soon}+01:00", f"{early}.000Z"),
    ):
        _, row = ask(clean, path, "PATCH", {"keep_until": text}, kernel_id=kernel_id)
        assert row["keep_until"] == shown


def test_a_refused_change_changes_nothing(clean: Server) -> None:
    kernel_id = clean.start_kernel("1/4")
    path = "/gpu-share/allocations/{kernel_id}"
    clean.run_cell(kernel_id, "g = (n for n in range(3))")  # cannot be kept
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    for body, expected in (
        ({"size": "0", "restart": True, "keep_until": "2999-01-01T00:00:00Z"}, 409),
        ({"size": "0", "keep_until": soon}, 409),
        ({"size": "3/2", "keep_until": soon}, 400),
    ):
        status, _ = ask(clean, path, "PATCH", body, kernel_id=kernel_id)
        _, row = ask(clean, path, kernel_id=kernel_id)
        assert (status, row["size"], row["keep_until"]) == (expected, "1/4", None)
    both = {"size": "0", "restart": True, "keep_until": soon}
    _, row = ask(clean, path, "PATCH", both, kernel_id=kernel_id)
    assert (row["size"], row["keep_until"][:19]) == ("0", soon[:19])


def test_an_id_keeps_its_case(clean: Server) -> None:
    kernel_id = str(uuid4()).upper()
    clean.start_kernel("1/8", kernel_id=kernel_id)
    assert clean.ok(f"gpu-share/allocations/{kernel_id}")["size"] == "1/8"


@pytest.mark.parametrize(("path", "method"), ALL)
def test_strangers_are_refused(server: Server, path: str, method: str) -> None:
    url = path.format(kernel_id=UNKNOWN).removeprefix("/")
    for token in (None, "wrong"):
        body = b"{}" if method != "GET" else None
        status, found = server.fetch(url, method, body, token=token)
        assert status == 403
        conforms(path, method, status, found)
        if method == "GET":  # of others the XSRF token is asked for first
            says = "You are not logged in to this server, or may not use gpu_share."
            assert found["message"] == says


@pytest.mark.parametrize("path", sorted({path for path, _ in ALL}))
def test_a_method_that_is_not_there_is_named_as_such(server: Server, path: str) -> None:
    url = path.format(kernel_id=UNKNOWN).removeprefix("/")
    allowed = {method for where, method in ALL if where == path}
    for method in {"GET", "PUT", "PATCH", "POST", "DELETE"} - allowed:
        status, found = server.fetch(url, method, b"{}" if method != "GET" else None)
        assert status == 405
        assert found["message"] == "This method is not allowed here."


def test_the_page_of_another_site_is_told_what_is_wrong(server: Server) -> None:
    elsewhere = {"Origin": "https://example.com", "Host": "127.0.0.1"}
    status, found = server.fetch("gpu-share/status", headers=elsewhere, token=None)
    assert status in (403, 404)
    assert found["message"] != "The server met an error; its log says more."


def test_every_error_of_a_handler_has_one_true_line() -> None:
    from jupyter_gpu_share.server._handler import _message

    cases: list[tuple[int, BaseException | None, str]] = [
        (401, web.HTTPError(401), "You are not logged in to this server."),
        (
            403,
            web.HTTPError(403),
            "You are not logged in to this server, or may not use gpu_share.",
        ),
        (403, web.HTTPError(403, "no %s, 5%%", "x"), "no x, 5%"),
        (400, web.HTTPError(400, "100%s\n more"), "100%s more"),
        (400, web.HTTPError(400, "one %s", "a", "b"), "The request cannot be understood."),
        (405, web.HTTPError(405), "This method is not allowed here."),
        (500, OSError("secret"), "The server met an error; its log says more."),
        (500, None, "The server met an error; its log says more."),
    ]
    for status, error, says in cases:
        assert _message(status, error) == says


@pytest.mark.parametrize(("path", "method"), [row for row in ALL if row[1] != "GET"])
def test_cookies_alone_are_not_enough(server: Server, path: str, method: str) -> None:
    # A browser that is logged in sends its cookie for any page; only ours knows the XSRF token.
    login = subprocess.run(
        [
            *(sys.executable, "-c"),
            (
                "import sys, urllib.request as r, http.cookiejar as c\n"
                "jar = c.CookieJar(); o = r.build_opener(r.HTTPCookieProcessor(jar))\n"
                f"o.open({server.url!r} + 'api/status?token={TOKEN}')\n"
                "print('; '.join(f'{k.name}={k.value}' for k in jar))"
            ),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    url = path.format(kernel_id=UNKNOWN).removeprefix("/")
    cookie = {"Cookie": login.stdout.strip()}
    assert server.fetch("gpu-share/status", token=None, headers=cookie)[0] == 200
    status, found = server.fetch(url, method, b"{}", token=None, headers=cookie)
    assert status == 403
    assert "_xsrf" in found["message"]


def test_asking_is_no_activity(server: Server) -> None:
    before = server.ok("api/status")["last_activity"]
    server.ok("gpu-share/status")
    server.ok("gpu-share/allocations")
    assert server.ok("api/status?no_track_activity=1")["last_activity"] == before


def test_the_token_is_not_logged(server: Server) -> None:
    server.fetch("gpu-share/requests/x", "PUT", {"size": "bad"})
    ours = [line for line in server.log.read_text().splitlines() if "gpu" in line.lower()]
    assert not [line for line in ours if TOKEN in line and "http" not in line]


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = run_server(
        tmp_path_factory.mktemp("refusing"),
        "--ServerApp.authorizer_class=refusing.RefusesGpuShare",
    )
    yield found
    stop_server(found)


def test_an_authorizer_can_refuse_every_route(refusing: Server) -> None:
    assert refusing.fetch("api/kernels")[0] == 200
    for path, method in ALL:
        url = path.format(kernel_id=UNKNOWN).removeprefix("/")
        status, found = refusing.fetch(url, method, b"{}" if method != "GET" else None)
        assert status == 403, (path, method)
        assert found["message"].startswith("User is not authorized to"), found
        conforms(path, method, status, found)


def test_a_server_without_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a kernelspec with a size does; others start without a share there.
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gpu-share-provisioner")
    server = run_server(tmp_path, simulate="")
    try:
        status, found = ask(server, "/gpu-share/status")
        assert (status, found["healthy"], found["gpus"]) == (200, False, [])
        assert "No NVIDIA GPU" in found["problem"]
        _, sizes = ask(server, "/gpu-share/sizes")
        assert {row["size"]: row["available"] for row in sizes["sizes"]}["0"]
        status, found = server.fetch("api/kernels", "POST", {"name": "python3"})
        assert status == 503
        assert "Choose size 0" in found["message"]
        notebook = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
        status, found = server.fetch("api/sessions", "POST", notebook)
        assert status >= 500
        assert found["message"].startswith("No NVIDIA GPU")
        assert server.ok("gpu-share/allocations") == []
        kernel = server.start_kernel("0")
        assert server.wait_for(kernel, "active")["share"]["devices"] == []
    finally:
        stop_server(server)


def test_kernels_behind_a_gateway_have_no_share_here(tmp_path: Path) -> None:
    gateway = run_server(tmp_path / "gateway", "--ServerApp.disable_check_xsrf=True")
    server = None
    try:
        server = run_server(
            tmp_path / "front",
            f"--GatewayClient.url={gateway.url}",
            f"--GatewayClient.auth_token={TOKEN}",
        )
        says = "Kernels of this server run behind a gateway; their GPUs are shared out there, "
        status, found = ask(server, "/gpu-share/status")
        assert (status, found["healthy"], found["gpus"]) == (200, False, [])
        assert found["problem"].startswith(says)
        _, found = ask(server, "/gpu-share/sizes")
        assert found["sizes"]
        for row in found["sizes"]:
            assert (row["available"], row["why"].startswith(says)) == (False, True)
        path = "/gpu-share/requests/{kernel_id}"
        status, found = ask(server, path, "PUT", {"size": "1/4"}, kernel_id=UNKNOWN)
        assert (status, found["message"].startswith(says)) == (409, True)
        kernel = server.ok("api/kernels", "POST", {"name": "python3"})
        assert server.ok("gpu-share/allocations") == []
        (row,) = gateway.ok("gpu-share/allocations")
        assert row["kernel_id"] == kernel["id"]
    finally:
        if server is not None:
            stop_server(server)
        stop_server(gateway)


def test_the_server_ends_quickly_with_kernels(tmp_path: Path) -> None:
    server = run_server(tmp_path)
    server.start_kernel("1/4")
    begun = time.monotonic()
    stop_server(server)
    assert time.monotonic() - begun < PATIENCE
