"""A real Jupyter server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import websocket
from installed import variables
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect
from waiting import PATIENCE, pauses

TOKEN = "test-token-that-must-not-leak"
#: Stands for the server's own token.
OWN = "own"


@asynccontextmanager
async def connected(base: str, path: str) -> AsyncIterator[WebSocketClientConnection]:
    """A websocket of a server, as a page opens it; closed from both sides at the end."""
    url = base.replace("http", "ws", 1) + path
    request = HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"})
    socket = await asyncio.wait_for(websocket_connect(request), PATIENCE)
    try:
        yield socket
    finally:
        socket.close()
        while await asyncio.wait_for(socket.read_message(), PATIENCE) is not None:
            pass


@dataclass
class Server:
    """Speaks HTTP with a running server."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    token: str = TOKEN

    def fetch(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        *,
        token: str | None = OWN,
        headers: dict[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> tuple[int, Any]:
        """Status and decoded body, whatever the status is."""
        sent = dict(headers or {})
        token = self.token if token == OWN else token
        if token:
            sent["Authorization"] = f"token {token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = Request(self.url + path, method=method, data=data, headers=sent)
        try:
            with urlopen(request, timeout=patience) as answer:
                text, status = answer.read(), answer.status
        except HTTPError as error:
            text, status = error.read(), error.code
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode(errors="replace")

    def ok(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """The body of an answer that must succeed."""
        status, found = self.fetch(path, method, body)
        assert status < 300, (status, found)
        return found

    def start_kernel(
        self, size: str | None = None, kernel_id: str | None = None, folder: str = ""
    ) -> str:
        """Start a kernel as JupyterLab does, in a folder of the server's; its id."""
        kernel_id = kernel_id or str(uuid4())
        if size is not None:
            self.ok(f"gpu-share/requests/{kernel_id}", "PUT", {"size": size})
        model = {"name": "python3", "kernel_id": kernel_id, **({"path": folder} if folder else {})}
        found = self.ok("api/kernels", "POST", model)
        assert found["id"] == kernel_id
        return kernel_id

    def open_notebook(self, path: str) -> str:
        """Write an empty notebook and start its kernel as JupyterLab does; the kernel's id."""
        content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        model = {"type": "notebook", "format": "json", "content": content}
        self.ok(f"api/contents/{path}", "PUT", model)
        wanted = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        return str(self.ok("api/sessions", "POST", wanted)["kernel"]["id"])

    def notebooks(self) -> dict[str, str]:
        """The kernels of all notebooks that have one, by path."""
        return {each["path"]: each["kernel"]["id"] for each in self.ok("api/sessions")}

    def kernels(self) -> list[str]:
        """Ids of the kernels; none while jupyter_server starts one, and cannot tell of it."""
        status, found = self.fetch("api/kernels")
        return [kernel["id"] for kernel in found] if status == 200 else []

    def wait_for(self, kernel_id: str, state: str) -> Any:
        """Wait until a kernel is in a state; its allocation."""
        end = time.monotonic() + PATIENCE
        looks = pauses()
        while True:
            found = self.ok(f"gpu-share/allocations/{kernel_id}")
            if found["state"] == state:
                return found
            assert time.monotonic() < end, f"never {state}: {found}"
            time.sleep(next(looks))

    def run_cell(self, kernel_id: str, code: str) -> str:
        """Run a cell over the server's websocket, as JupyterLab does; what it printed."""
        url = self.url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
        socket = websocket.create_connection(
            url, header=[f"Authorization: token {self.token}"], timeout=PATIENCE
        )
        header = {"msg_id": uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
        header |= {"session": uuid4().hex, "username": "", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content |= {"user_expressions": {}, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        told, end = "", time.monotonic() + 4 * PATIENCE
        try:
            socket.send(json.dumps({**message, "channel": "shell"}))
            while True:
                assert time.monotonic() < end, f"no answer to {code!r}; it printed {told!r}"
                answer = json.loads(socket.recv())
                if answer["content"].get("execution_state") == "dead":
                    raise AssertionError(f"the kernel died of {code!r}; it printed {told!r}")
                if answer["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                kind, body = answer["msg_type"], answer["content"]
                if kind == "stream":
                    told += body["text"]
                elif kind == "error":
                    told += f"{body['ename']}: {body['evalue']}"
                elif kind == "status" and body["execution_state"] == "idle":
                    return told.strip()
        finally:
            socket.close()


def until(holds: Callable[[], Any], what: str, patience: float | None = None) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + (2 * PATIENCE if patience is None else patience)
    looks = pauses()
    while True:
        if found := holds():
            return found
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(next(looks))


def run_server(
    folder: Path,
    *arguments: str,
    simulate: str = "1xA100-80GB",
    app: str = "jupyter_server",
    prefix: tuple[str, ...] = (),
    environment: Path | None = None,
) -> Server:
    """Start a server and wait until it answers.

    ``app`` is the module that is run; ``prefix`` a command that runs the one that comes after it.
    ``environment`` is that of a new user (``installed.py``), who has an empty home.
    """
    if environment is None:
        python, env = sys.executable, _variables_of_tests(folder)
    else:
        python = str(environment / "bin" / "python")
        env = variables(environment, home_in(folder))
    command = [*prefix, python, "-m", app, "--no-browser", "--allow-root"]
    options = ["--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", *arguments]
    env |= {"JUPYTER_TOKEN": TOKEN, "JUPYTER_GPU_SHARE_SIMULATE": simulate}
    return start([*command, *options], folder, env)


def run_as_typed(line: str, folder: Path, environment: Path) -> Server:
    """Start a server as a new user types it, and wait until it answers.

    But for what a machine without a screen needs, and root: ``--no-browser`` and ``--allow-root``.
    """
    words = shlex.split(line)
    command = list(dropwhile(lambda word: "=" in word, words))
    set_here = dict(word.split("=", 1) for word in words[: len(words) - len(command)])
    options = ["--no-browser", *(["--allow-root"] if os.geteuid() == 0 else [])]
    # Of several commands of the same name, the environment's.
    command[0] = str(environment / "bin" / command[0])
    env = variables(environment, home_in(folder)) | set_here
    return start([*command, *options], folder, env)


def start(command: list[str], folder: Path, env: dict[str, str]) -> Server:
    """Run the command of a server, whose files of its run are in ``folder/runtime``."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    end = time.monotonic() + 3 * PATIENCE  # many may start at once
    looks = pauses()
    while True:
        for info in (folder / "runtime").glob("jpserver-*.json"):
            try:
                found = json.loads(info.read_text())
                with urlopen(f"{found['url']}api", timeout=5):
                    return Server(found["url"], work, process, log, found["token"])
            except (OSError, ValueError, KeyError):
                continue
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"the server did not come up: {log.read_text()}"
        time.sleep(next(looks))


def _variables_of_tests(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "server"), *_import_path()]),
        **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
    }


def home_in(folder: Path) -> Path:
    """A new user's home in a folder, which has Jupyter's folders by the names of other servers'."""
    data = folder / "home" / ".local" / "share" / "jupyter"
    places = {"data": data, "runtime": data / "runtime", "config": folder / "home" / ".jupyter"}
    for name, place in places.items():
        place.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(place)
    return folder / "home"


def _import_path() -> list[str]:
    """Where these tests were told to find the package, if they were."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def stop_server(server: Server, number: int = signal.SIGTERM) -> None:
    """End the server and its kernels."""
    server.process.send_signal(number)
    try:
        server.process.wait(PATIENCE)
    except subprocess.TimeoutExpired as error:
        server.process.kill()
        server.process.wait(PATIENCE)
        said = server.log.read_text(errors="replace")[-2000:]
        raise AssertionError(f"the server did not end within {PATIENCE:g} s:\n{said}") from error
