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
from ._visitors import FRESH, Visitors

__all__ = ["Service", "serve"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What the Hub tells its services about themselves.

    Attributes
    ----------
    prefix, base: paths of the service and of the Hub's pages; both end with a slash.
    host, port: where to listen.
    """

    name: str
    prefix: str
    base: str
    token: str
    api: str
    host: str
    port: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Service:
        """From a service's environment.

        Raises
        ------
        EngineError: it is not one. Without its own name every token of the Hub would do.
        """
        found = {}
        for part in ("SERVICE_NAME", "SERVICE_PREFIX", "SERVICE_URL", "API_TOKEN", "API_URL"):
            found[part] = environ.get(f"JUPYTERHUB_{part}", "")
            if not found[part]:
                raise EngineError(
                    f"The page is no service of a JupyterHub here: JUPYTERHUB_{part} is not set. "
                    "Have the Hub start it, as docs/shared-machine.md says."
                )
        url = urlsplit(found["SERVICE_URL"])
        if url.scheme != "http" or not url.hostname or not url.port:
            raise EngineError(
                f"The page cannot listen at {found['SERVICE_URL']}; write the service's url like "
                "http://127.0.0.1:1014."
            )
        return cls(
            name=found["SERVICE_NAME"],
            prefix=found["SERVICE_PREFIX"].rstrip("/") + "/",
            base=environ.get("JUPYTERHUB_BASE_URL", "/").rstrip("/") + "/hub/",
            token=found["API_TOKEN"],
            api=found["API_URL"],
            host=url.hostname,
            port=url.port,
        )


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
        from jupyterhub.services.auth import HubOAuth

        from ._routes import MachineHubBoard, application
    except ImportError as error:
        raise EngineError(
            "The page needs JupyterHub's package: pip install 'jupyter-gpu-share[hub]'"
        ) from error
    auth = HubOAuth(
        access_scopes={f"access:services!service={service.name}"},
        api_token=service.token,
        api_url=service.api,
        base_url=service.prefix,
        cache_max_age=FRESH,
        hub_prefix=service.base,
        oauth_client_id=f"service-{service.name}",
    )
    routes = application(MachineHubBoard(broker), auth, Visitors(auth, account, ADMINISTRATOR))
    listening = listen(service.host, service.port, "Name another in the service's url.")
    with _until_the_hub_ends():
        await run(routes, listening, lambda: _log.info("The page is at %s", service.prefix))


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
