"""What the command says of servers that refuse, are slow, or are not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.serverapp import list_running_servers
from waiting import PATIENCE

from jupyter_gpu_share.cli import _servers, main
from jupyter_gpu_share.cli._servers import GoesOn, ask, change, find_kernel
from jupyter_gpu_share.errors import EngineError, NotPossible

KERNEL = "2085b3ae-0000-4000-8000-000000000000"
ROW = {
    "kernel_id": KERNEL,
    "kernel_name": "python3",
    "path": "a.ipynb",
    "size": "1/4",
    "state": "active",
    "reason": "",
    "share": None,
    "queue": None,
    "used_bytes": None,
    "kept": {"how": "in-place", "lost": []},
}

Answer = Callable[[BaseHTTPRequestHandler], tuple[int, str]]


class Fake:
    """A server that answers as a test says.

    Attributes
    ----------
    heard: method, path and Authorization of each request.
    """

    def __init__(self, answer: Answer, folder: Path, **info: Any) -> None:
        self.heard: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.heard.append((self.command, self.path, self.headers["Authorization"]))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, text = answer(self)
                if not status:
                    return  # the connection is closed without a word
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", text)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PATCH(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        serve = self._http.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), daemon=True)
        self._thread.start()
        self.port = self._http.server_port
        self.info = {
            "url": f"http://127.0.0.1:{self.port}/",
            "port": self.port,
            "pid": os.getpid(),
            "base_url": "/",
            "token": "",
            "password": False,
            "sock": "",
            **info,
        }
        (folder / "runtime" / f"jpserver-{self.port}.json").write_text(json.dumps(self.info))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(PATIENCE)


@pytest.fixture
def fake(jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Fake]]:
    """Makes servers that Jupyter believes to run."""
    for name in ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    made: list[Fake] = []

    def make(answer: Answer, **info: Any) -> Fake:
        made.append(Fake(answer, jupyter_dirs, **info))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refuses(status: int, text: str = '{"message": "No.", "reason": null}') -> Answer:
    return lambda _: (status, text)


def runs_a_kernel(request: BaseHTTPRequestHandler) -> tuple[int, str]:
    return 200, json.dumps([ROW] if request.command == "GET" else ROW)


REFUSALS = [
    (401, {}, "It has told no token: start it with JUPYTER_TOKEN set"),
    (403, {"token": "secret-1"}, "Its token was sent; its authorizer refuses gpu_share"),
    (302, {}, "It has told no token: start it with JUPYTER_TOKEN set"),
]


@pytest.mark.parametrize(("status", "info", "why"), REFUSALS)
def test_a_server_that_does_not_let_the_command_in_is_named(
    fake: Callable[..., Fake],
    capsys: pytest.CaptureFixture[str],
    status: int,
    info: dict[str, Any],
    why: str,
) -> None:
    server = fake(refuses(status), **info)
    assert main(["release", KERNEL[:8]]) == 1
    told = capsys.readouterr().err
    assert f"Whether a kernel '{KERNEL[:8]}' runs is not known." in told
    says = f"The Jupyter server at port {server.port} did not let this command in ({status})."
    assert f"{says} {why}" in told
    assert "No Jupyter server of yours" not in told
    assert "secret" not in told
    assert [method for method, _, _ in server.heard] == ["GET"]


def test_a_kernel_is_found_beside_a_server_that_refuses(fake: Callable[..., Fake]) -> None:
    fake(refuses(403))
    server = fake(runs_a_kernel)
    assert find_kernel("a.ipynb")[0]["port"] == server.port


def test_running_servers_are_those_that_jupyter_lists(
    fake: Callable[..., Fake], jupyter_dirs: Path
) -> None:
    """Files of servers that have ended, and such that nobody can read, are passed over."""
    fake(refuses(403))
    fake(refuses(403))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(PATIENCE)
    runtime = jupyter_dirs / "runtime"
    (runtime / "jpserver-1.json").write_text(json.dumps({"pid": ended.pid, "port": 1}))
    (runtime / "jpserver-2.json").write_text("{")
    (runtime / "jpserver-3.json").write_text("[]")
    found = [server["port"] for server in _servers.running_servers()]
    (runtime / "jpserver-3.json").unlink()  # Jupyter's own function takes it for one
    assert sorted(found) == sorted(server["port"] for server in list_running_servers())
    assert len(found) == 2


def test_asking_servers_imports_no_server() -> None:
    code = (
        "import sys; from jupyter_gpu_share.cli import _listing, _servers\n"
        "list(_servers.running_servers())\n"
        "assert 'jupyter_server.serverapp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_no_server_at_all(jupyter_dirs: Path) -> None:
    with pytest.raises(NotPossible, match="No Jupyter server of yours runs a kernel"):
        find_kernel("a.ipynb")


OTHERS = [
    (404, "<html>", "lacks the extension jupyter_gpu_share (404)."),
    (500, "oops", "answers with an error (500); its log says more."),
    (500, '{"message": "The server met an error; its log says more."}', "The server met an error;"),
    (200, "<html>", "broke the connection: its answer is not JSON."),
    (0, "", "broke the connection: Remote end closed connection without response."),
]


@pytest.mark.parametrize(("status", "text", "says"), OTHERS)
def test_each_failure_of_a_question_has_its_words(
    fake: Callable[..., Fake], status: int, text: str, says: str
) -> None:
    server = fake(refuses(status, text))
    with pytest.raises((NotPossible, EngineError)) as caught:
        ask(server.info, "GET", "gpu-share/allocations")
    assert says in str(caught.value)


def test_a_server_that_is_not_there_is_not_slow() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        gone = {"url": f"http://127.0.0.1:{port}/", "port": port}
        for send in (ask, change):
            with pytest.raises(EngineError, match="cannot be reached: Connection refused"):
                send(gone, "PATCH", "x", {})


def test_a_server_on_a_socket_is_named_as_such() -> None:
    server = {"url": "http+unix://x", "sock": "/run/jupyter.sock"}
    with pytest.raises(EngineError, match=r"at the socket /run/jupyter\.sock cannot be asked"):
        ask(server, "GET", "x")


def test_the_token_of_a_hub_goes_to_the_hubs_server_alone(
    fake: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "from-the-hub")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    own = fake(runs_a_kernel, base_url="/user/ann/")
    other = fake(refuses(403), base_url="/user/bob/")
    plain = fake(refuses(403))
    assert find_kernel(KERNEL)[0]["port"] == own.port
    assert own.heard[0][2] == "token from-the-hub"
    assert other.heard[0][2] is plain.heard[0][2] is None


def test_a_token_is_not_carried_elsewhere(fake: Callable[..., Fake]) -> None:
    elsewhere = fake(runs_a_kernel)
    server = fake(refuses(302, elsewhere.info["url"]), token="secret-1")
    with pytest.raises(NotPossible, match="did not let this command in"):
        ask(server.info, "GET", "gpu-share/allocations")
    assert elsewhere.heard == []


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that servers wait for until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_a_slow_server_is_named_as_slow(
    fake: Callable[..., Fake],
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = fake(lambda _: (200, "[]") if never.wait(PATIENCE) else (500, ""))
    monkeypatch.setattr(_servers, "_ASK_TIMEOUT", 0.2)
    assert main(["wake", KERNEL]) == 1
    told = capsys.readouterr().err
    assert f"The Jupyter server at port {server.port} did not answer within 0.2 s." in told


def test_a_change_that_takes_long_goes_on(
    fake: Callable[..., Fake],
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(request: BaseHTTPRequestHandler) -> tuple[int, str]:
        if request.command == "POST":
            never.wait(PATIENCE)
        return runs_a_kernel(request)

    fake(answer)
    monkeypatch.setattr(_servers.change, "__kwdefaults__", {"timeout": 0.2})
    assert main(["wake", KERNEL]) == 3
    told = capsys.readouterr().err
    assert "The change takes longer than 0.2 s and goes on in the server" in told
    assert "`jupyter gpu-share list` shows" in told


def test_a_connection_that_breaks_leaves_a_change_open(
    fake: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    fake(lambda request: runs_a_kernel(request) if request.command == "GET" else (0, ""))
    assert main(["keep", KERNEL, "5"]) == 3
    told = capsys.readouterr().err
    assert "the change may have been made or not" in told


def test_a_look_that_takes_long_has_changed_nothing(
    fake: Callable[..., Fake], never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fake(lambda _: (200, "{}") if never.wait(PATIENCE) else (500, ""))
    monkeypatch.setattr(_servers, "_LOOK_TIMEOUT", 0.2)
    with pytest.raises(EngineError, match=r"did not answer within 0\.2 s") as caught:
        ask(server.info, "PATCH", "x", {"dry_run": True})
    assert not isinstance(caught.value, GoesOn)


def test_an_interrupt_ends_the_command_at_once(
    fake: Callable[..., Fake], never: threading.Event
) -> None:
    asked = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, str]:
        if request.command == "POST":
            asked.set()
            never.wait(PATIENCE)
        return runs_a_kernel(request)

    fake(answer)
    command = [sys.executable, "-c", "from jupyter_gpu_share.cli import main; exit(main())"]
    with subprocess.Popen([*command, "wake", KERNEL], stderr=subprocess.PIPE, text=True) as run:
        assert asked.wait(PATIENCE)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=PATIENCE / 2)
    assert run.returncode == 130
    assert "the change that was sent goes on in the server" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("minutes", ["nan", "inf", "-inf", "-5", "1e12", "soon", ""])
def test_keep_wants_a_number_of_minutes(
    fake: Callable[..., Fake], capsys: pytest.CaptureFixture[str], minutes: str
) -> None:
    server = fake(runs_a_kernel)
    with pytest.raises(SystemExit) as caught:
        main(["keep", KERNEL, minutes])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    if minutes != "-inf":  # which is taken for an option
        assert f"{minutes!r} is no number of minutes from 0 up to a year" in last
    assert server.heard == []


@pytest.mark.parametrize("given", ["nan", "many"])
@pytest.mark.parametrize("option", ["--aim", "--timeout", "--demand-after", "--gpus", "--wake"])
def test_replay_wants_numbers(capsys: pytest.CaptureFixture[str], option: str, given: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", "trace.csv", option, given])
    assert caught.value.code == 2
    assert f"{given!r} is no " in capsys.readouterr().err.splitlines()[-1]


def test_a_list_without_a_server_says_so_beside_the_data(
    fake: Callable[..., Fake], one_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = fake(refuses(403))
    assert main(["list", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == []
    says = f"A server was left out: The Jupyter server at port {server.port} did not let"
    assert says in told.err
    assert main(["list"]) == 0
    assert says in capsys.readouterr().out
