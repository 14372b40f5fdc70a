"""The broker's program in a cluster: a service of the JupyterHub that makes all users' kernels."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from traitlets import List, Unicode

from ..._threads import stopped, within
from ...engines.kubernetes.api import KubeApi, ServerTrouble, TooManyRequests, Unreachable
from ...errors import EngineError
from ..connections import BoundedServer, listening_at, more_descriptors
from ..metrics_port import MetricsPort, read_token
from ..settings import Broker, Seconds
from .callers import Callers, HubApi
from .fence import Fence, FenceLost
from .page import Overview, hub_pages
from .service import Home, application, hub_of, make_server

__all__ = ["ClusterBroker", "Served"]

_log = logging.getLogger(__name__)

#: Seconds between two tries to reach the API at the start.
_AGAIN = 3.0
#: Seconds after which a broker that lost its Lease is gone, whatever still runs in it.
_LAST = 5.0
#: Seconds for the home to let go of everything.
_CLOSING = 10.0
#: Seconds after which this process has ended. Kubernetes kills it after 30, without a word of why.
_ENDED = 25.0


class Served(Home, Protocol):
    """A home whose kernels the page and Prometheus see, too."""

    @property
    def overview(self) -> Overview:
        """What the page asks."""

    async def metrics(self) -> bytes:
        """Everything in Prometheus' text format.

        Raises
        ------
        GpuShareError: it is not ready, or the cluster cannot be read.
        """


#: Makes the home from the settings and what is to be called before each write to the cluster.
MakeHome = Callable[["ClusterBroker", Callable[[], None]], Served]


class ClusterBroker(Broker):
    """Owns the shares of all users of a JupyterHub, and makes their kernels' pods.

    Parameters
    ----------
    make_home: makes what holds the kernels.
    environ: tells what the Hub tells its services.
    """

    bind = Unicode(
        "0.0.0.0:8000",
        config=True,
        help="""
        Address and port on which users' servers and the Hub's proxy reach the broker. Who may
        connect is for the cluster's NetworkPolicies, who asks is proven by tokens of the Hub.

        ::

            c.Broker.bind = "0.0.0.0:8000"
        """,
    )
    hub_grace = Seconds(
        600.0,
        min=0.0,
        config=True,
        help="""
        Seconds for which users' servers may go on with what they have while the JupyterHub does
        not answer. Nothing new starts meanwhile. Default 600.

        ::

            c.Broker.hub_grace = 1800
        """,
    )
    kept_after_stop = Seconds(
        8 * 3600.0,
        min=0.0,
        config=True,
        help="""
        Seconds for which kernels that have given their share back outlive their user's server, so
        that the next one finds them. Default 28800, eight hours.

        ::

            c.Broker.kept_after_stop = 3600
        """,
    )

    metrics_bind = Unicode(
        config=True,
        help="""
        Address and port on which Prometheus gets metrics, under ``/metrics``; not the one of
        ``bind``, so that who asks needs no token of the Hub. Default: none.

        ::

            c.Broker.metrics_bind = "0.0.0.0:9500"
        """,
    )

    silence = Seconds(
        120.0,
        min=0.0,
        config=True,
        help="""
        Seconds that a user's server has to come back of which nothing is heard, while the Hub does
        not say that it was stopped: as after a crash. Its kernels keep their shares meanwhile. Once
        the Hub has stopped it they go at once. Default 120.

        ::

            c.Broker.silence = 300
        """,
    )

    queues: List[Any] = List(
        config=True,
        help="""
        In which queue of KAI or LocalQueue of Kueue a user's kernels wait, as entries with a
        ``queue`` and a pattern of a ``user`` or a ``group``, perhaps for some ``sizes`` only; the
        first that fits counts. ``{user}`` and ``{group}`` stand for names. Where nothing fits it is
        the queue of ``c.KubernetesEngine``. Default: none.

        ::

            c.Broker.queues = [
                {"group": "course-*", "queue": "courses"},
                {"user": "*", "queue": "user-{user}"},
            ]
        """,
    )

    def __init__(
        self, make_home: MakeHome, environ: Mapping[str, str] = os.environ, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.hub = hub_of(environ)
        self._hub_api = HubApi(self.hub.api)
        self.callers = Callers(self._hub_api, self.hub.name, self.hub_grace)
        section = self.config.get("KubernetesEngine", {})
        kubeconfig, context = section.get("kubeconfig", ""), section.get("context", "")
        #: For the Lease alone: these writes are not guarded, and what fails is repeated there.
        self._api = KubeApi(kubeconfig, context, patience=0.0)
        self._namespace = str(section.get("namespace", ""))
        self._environ = environ
        self._fence: Fence | None = None
        self._home = make_home(self, self._guard)
        self._opened = False
        self._server: BoundedServer | None = None
        self._metrics: MetricsPort | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        FenceLost: another broker has taken its place, and nothing was tidied up.
        GpuShareError: it cannot begin; says why and what to do.
        """
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        by_force: list[asyncio.TimerHandle] = []

        def end() -> None:
            over.set()
            by_force.append(loop.call_later(_ENDED, _end_by_force))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        ending = asyncio.create_task(over.wait(), name="wait for the end")
        lost = False
        try:
            await self._serve(ending)
        except FenceLost:
            # What it has is the other broker's by now: it does nothing more.
            lost = True
            loop.call_later(_LAST, os._exit, 1)
            raise
        finally:
            ending.cancel()
            if not lost:
                await self.close()
            for timer in by_force:
                timer.cancel()

    async def _serve(self, ending: asyncio.Task[Any]) -> None:
        begun = asyncio.create_task(self.start(), name="begin")
        try:
            if await _first(ending, begun):
                return
        finally:
            await stopped(begun)
        assert self._fence is not None
        keeping = asyncio.create_task(self._fence.keep(), name="keep the Lease")
        try:
            await _first(ending, keeping)
        finally:
            await stopped(keeping)

    async def start(self) -> None:
        """Answer, wait until no other broker works, and begin to work.

        Raises
        ------
        GpuShareError
        """
        more_descriptors()
        self._metrics = self._metrics_port()
        listening = _listen(self.bind, "bind")
        try:
            pages = hub_pages(self.hub, self._home.overview)
            routes = application(self.callers, self._home, self.hub.prefix, pages)
            self._server = make_server(routes)
        except BaseException:
            listening.close()
            raise
        self._server.add_socket(listening)
        _log.info("The broker listens on %s, under %s", self.bind, self.hub.prefix)
        await self.callers.check_own(self.hub.token)
        self._fence = Fence(self._api, await self._where(), environ=self._environ)
        await self._fence.take()
        self._opened = True
        keeping = asyncio.create_task(self._fence.keep(), name="keep the Lease at the start")
        opening = asyncio.create_task(self._home.open(), name="open the home")
        try:
            await _first(opening, keeping)
        finally:
            await stopped(keeping, opening)
        _log.info("The broker is ready")

    async def close(self) -> None:
        """Serve nobody any more, and let the next broker begin. Kernels go on."""
        if self._server is not None:
            self._server.stop()
        if self._opened:
            with suppress(asyncio.TimeoutError):
                await within(_CLOSING, self._home.close())
        if self._server is not None:
            await self._server.close_all_connections()
        if self._metrics is not None:
            await self._metrics.close()
        await self.callers.close()
        await self._hub_api.close()
        if self._fence is not None:
            await self._fence.release()
        await self._api.close()

    def _metrics_port(self) -> MetricsPort | None:
        if not self.metrics_bind:
            return None
        token = read_token(self.metrics_token_file)
        if self.metrics_by_user and not token:
            raise EngineError(
                "With c.Broker.metrics_by_user whoever reaches c.Broker.metrics_bind could read "
                "what users hold: name a c.Broker.metrics_token_file, or leave one of them out."
            )
        return MetricsPort(_listen(self.metrics_bind, "metrics_bind"), self._home.metrics, token)

    def _guard(self) -> None:
        if self._fence is None:
            raise EngineError("The broker writes nothing before it has its Lease.")
        self._fence.check()

    async def _where(self) -> str:
        """The namespace of the kernels; without a setting that of the credentials."""
        if self._namespace:
            return self._namespace
        while True:
            try:
                await self._api.version()
            except (Unreachable, ServerTrouble, TooManyRequests) as error:
                _log.warning("The broker waits for Kubernetes: %s", error)
                await asyncio.sleep(_AGAIN)
                continue
            return self._api.namespace or "default"


async def _first(*tasks: asyncio.Task[Any]) -> bool:
    """Wait until one of two tasks has ended; whether that is the first. Raises what it raised."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in reversed(tasks):
        if task.done():
            task.result()
    return tasks[0].done()


def _end_by_force() -> None:
    left = sorted({getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()})
    _log.error("The broker could not end in order, and ends now. Left are: %s", ", ".join(left))
    os._exit(1)


def _listen(bind: str, setting: str) -> socket.socket:
    """A listening socket at an address with a port, which a setting of ``c.Broker`` names.

    Raises
    ------
    EngineError
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    try:
        if not port.isdecimal() or not host:
            raise OSError("write it like 0.0.0.0:8000")
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return listening_at(address, family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise EngineError(
            f"The broker cannot listen on {bind}: {why}. Name another address in "
            f"c.Broker.{setting}."
        ) from error
