"""Runs the page where the Hub has its services."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import EngineError
from ..page import listen, run
from ._configuration import ADMINISTRATOR
from ._hub import Hub, told
from ._visitors import Visitors

__all__ = ["Service", "serve"]

_log = logging.getLogger(__name__)

_MISSING = (
    "The page is no service of a JupyterHub here: {} is not set. Have the Hub start it, as "
    "docs/shared-machine.md says."
)


@dataclass(frozen=True)
class Service:
    """What the Hub tells its services about themselves.

    Attributes
    ----------
    host, port: where to listen.
    """

    hub: Hub
    host: str
    port: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Service:
        """From a service's environment.

        Raises
        ------
        EngineError: it is not one.
        """
        hub = Hub.of(environ, _MISSING)
        _, where = told(environ, "SERVICE_PREFIX", "SERVICE_URL", missing=_MISSING)
        url = urlsplit(where)
        if url.scheme != "http" or not url.hostname or not url.port:
            raise EngineError(
                f"The page cannot listen at {where}; write the service's url like "
                "http://127.0.0.1:1014."
            )
        return cls(hub, url.hostname, url.port)


async def serve(broker: Path, service: Service, account: str) -> None:
    """Show the page until SIGTERM or SIGINT, or until the Hub ends.

    Parameters
    ----------
    broker: its socket.
    account: the name that the Hub's user ``{name}`` has on this machine, or ``{tljh}``.

    Raises
    ------
    EngineError: the package jupyterhub is missing, the account names nobody, or the port is taken.
    """
    try:
        from ._routes import MachineHubBoard, application
    except ImportError as error:
        raise EngineError(
            "The page needs JupyterHub's package: pip install 'jupyter-gpu-share[hub]'"
        ) from error
    auth = service.hub.login()
    routes = application(MachineHubBoard(broker), auth, Visitors(auth, account, ADMINISTRATOR))
    listening = listen(service.host, service.port, "Name another in the service's url.")
    with _until_the_hub_ends():
        await run(routes, listening, lambda: _log.info("The page is at %s", service.hub.prefix))


@contextmanager
def _until_the_hub_ends() -> Iterator[None]:
    """End this process with the one that started it.

    A Hub that was killed starts a new page, which needs the port, and whose token is another.
    """
    hub = os.getppid()
    if hub == 1:  # the system's own service
        yield
        return
    loop, descriptor = asyncio.get_running_loop(), os.pidfd_open(hub)
    loop.add_reader(descriptor, signal.raise_signal, signal.SIGTERM)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
