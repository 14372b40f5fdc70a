"""A real JupyterHub whose service is a broker's HTTP service in this process, over a fake home."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from hubs import RunningHub, proxy_folder
from machines import end_all_in, mounts_of_users
from mounts import needs_mounts
from served import FakeHome
from servers import until
from tornado.netutil import bind_sockets
from waiting import PATIENCE

from jupyter_gpu_share.broker.cluster.callers import Callers, HubApi
from jupyter_gpu_share.broker.cluster.page import hub_pages
from jupyter_gpu_share.broker.cluster.service import application, hub_of, make_server
from jupyter_gpu_share.broker.hub import _routes  # noqa: F401 - takes long on a busy machine

__all__ = ["SCOPE", "WATCHING", "HubOfService", "hub_of_service"]

T = TypeVar("T")

SCOPE = "access:services!service=gpu-share"
TOKEN = "token-of-the-broker-as-a-service"
#: Of another service, which has the administrators' scope.
WATCHING = "token-of-a-service-that-watches"

#: In place of the service that this package's page is on a machine.
_MORE = """
more = json.loads({more!r})
c.JupyterHub.services = [each for each in c.JupyterHub.services if each["name"] != "gpu-share"]
c.JupyterHub.services.append(dict(
    name="gpu-share", url=more["url"], api_token=more["token"], oauth_no_confirm=True,
    oauth_client_allowed_scopes=["custom:gpu-share:admin"],
))
c.JupyterHub.load_roles = [
    each for each in c.JupyterHub.load_roles if each["name"] not in ("user", "server")
] + more["roles"]
for role in c.JupyterHub.load_roles:
    if role["name"] == "tests":
        role["scopes"].append("admin:groups")
# As docs/jupyterhub.md says of programs of one's own.
c.JupyterHub.services.append(dict(name="gpu-share-usage", api_token=more["watching"]))
c.JupyterHub.load_roles.append(dict(
    name="gpu-share-usage", services=["gpu-share-usage"],
    scopes=["custom:gpu-share:admin", "access:services!service=gpu-share"],
))
"""


class HubOfService(RunningHub):
    """The Hub, with a broker's service beside it.

    Parameters
    ----------
    roles: the Hub's roles ``user`` and ``server``.
    """

    def __init__(self, folder: Any, namespace: int, roles: list[dict[str, Any]]) -> None:
        sockets = bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        told = {"url": f"http://127.0.0.1:{self.port}", "token": TOKEN, "roles": roles}
        told["watching"] = WATCHING
        super().__init__(folder, namespace, "import json\n" + _MORE.format(more=json.dumps(told)))
        self._sockets = sockets
        self.home = FakeHome()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker's service")

    def start_service(self, api: str) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()
        self.on_loop(lambda: self._serve(api))

    def stop_service(self) -> None:
        """End it."""
        if self._thread.is_alive():
            self.on_loop(self._close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
        self._loop.close()

    def on_loop(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something where the service runs."""

        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    async def _serve(self, api: str) -> None:
        hub = hub_of(
            {
                "JUPYTERHUB_SERVICE_NAME": "gpu-share",
                "JUPYTERHUB_SERVICE_PREFIX": "/hubs/services/gpu-share/",
                "JUPYTERHUB_BASE_URL": "/hubs/",
                "JUPYTERHUB_API_TOKEN": TOKEN,
                "JUPYTERHUB_API_URL": api,
            }
        )
        self._hub_api = HubApi(hub.api)
        self.callers = Callers(self._hub_api, hub.name)
        pages = hub_pages(hub, self.home.overview)
        self._server = make_server(application(self.callers, self.home, hub.prefix, pages))
        self._server.add_sockets(self._sockets)

    async def _close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        await self.callers.close()
        await self._hub_api.close()

    def direct(self, path: str) -> str:
        """An address of the service that does not lead through the Hub's proxy."""
        return f"http://127.0.0.1:{self.port}/hubs/services/gpu-share{path}"

    def kill(self) -> None:
        """Kill the Hub; its service goes on."""
        self._processes["hub"].kill()
        self._processes.pop("hub").wait(PATIENCE)


@contextmanager
def hub_of_service(*with_scope: str) -> Iterator[HubOfService]:
    """The Hub, its proxy and the service.

    Parameters
    ----------
    with_scope: which of the roles ``user`` and ``server`` have the scope to access the service.
    """
    needs_mounts()
    if not proxy_folder().is_dir():
        raise RuntimeError("The Hub's proxy is not there; run scripts/install-tools.")
    plain = {
        "user": ["self"],
        "server": ["users:activity!user", "access:servers!server"],
    }
    roles = [
        {"name": name, "scopes": [*scopes, *([SCOPE] if name in with_scope else [])]}
        for name, scopes in plain.items()
    ]
    mounts = mounts_of_users("gpu-share-service-", proxy_folder().resolve())
    with mounts as (folder, holder), ExitStack() as stack:
        hub = HubOfService(folder, holder, roles)
        stack.callback(hub.wait)
        stack.callback(end_all_in, holder)
        stack.callback(hub.stop_service)
        hub.start_proxy()
        hub.start_service(f"{hub.url}hub/api")
        hub.start()
        until(lambda: hub.ask("GET", "/users")[0] == 200, "the Hub's API answers")
        yield hub
