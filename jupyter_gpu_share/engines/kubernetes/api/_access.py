"""Access to a cluster: configuration, credentials, TLS and proxy, as ``kubernetes.aio`` reads them.

What was read changes while it is in use: tokens expire, certificates are written anew under the
same names, a kubeconfig is replaced. So all of it can be read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]
    getproxies_environment,
    proxy_bypass_environment,
)

from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import SERVICE_TOKEN_FILENAME

from ...._threads import stopped
from ._errors import KubernetesError

__all__ = ["Access"]

#: Of requests, and as many of watches: a watch that is begun anew does not queue for a connection
#: behind hundreds of requests, or all that changes meanwhile would be heard of late.
_CONNECTIONS = 32
#: Seconds that a kubeconfig's credential plugin may take.
_PLUGIN = 30.0


@dataclass(eq=False)
class _Door:
    """A client for requests and one for watches, and how many of both use them."""

    client: ApiClient
    watching: ApiClient
    identity: tuple[object, ...]
    users: int = 0

    async def close(self) -> None:
        await self.client.close()
        await self.watching.close()


class Access:
    """Clients for one cluster, one after the other as what they were made from changes.

    Parameters
    ----------
    kubeconfig: path of a kubeconfig; empty: the pod's own ServiceAccount where there is one, else
        the kubeconfig that kubectl would take.
    context: of the kubeconfig; empty: its current one.
    """

    def __init__(self, kubeconfig: str, context: str) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._door: _Door | None = None
        #: Former ones, with which requests are still under way.
        self._former: set[_Door] = set()
        self._loading = asyncio.Lock()
        self._reading: asyncio.Task[Configuration] | None = None
        #: When reading began last (monotonic), and how it failed.
        self._read = 0.0
        self._failure = ""
        #: Namespace of the credentials, where they name one.
        self.namespace = ""
        #: By which credentials which API server is reached, in words for people.
        self.described = ""
        self.closed = False

    @asynccontextmanager
    async def client(self, *, watching: bool = False) -> AsyncIterator[tuple[ApiClient, str]]:
        """The client for one request, or a watch, and its ``Authorization`` header; empty: none.

        Raises
        ------
        KubernetesError: there are no credentials, or `close` was called.
        """
        door = await self._opened()
        door.users += 1
        try:
            client = door.watching if watching else door.client
            yield client, await _authorization(client.configuration)
        finally:
            door.users -= 1
            await self._tidy()

    async def renew(self, since: float | None = None) -> None:
        """Read everything again. Requests that are under way are not disturbed.

        Parameters
        ----------
        since: monotonic time; nothing is done where that has happened after it.

        Raises
        ------
        KubernetesError: there are no usable credentials any more; the former ones are kept.
        """
        async with self._loading:
            door = self._door
            if door is None or self.closed:
                return
            if since is not None and self._read > since:
                if self._failure:
                    raise KubernetesError(self._failure)
                return
            fresh = await self._load()
            if door.identity == fresh.identity:
                door.client.configuration.api_key = fresh.client.configuration.api_key
                door.client.configuration.refresh_api_key_hook = (
                    fresh.client.configuration.refresh_api_key_hook
                )
            elif not self.closed:
                self._door = fresh
                self._former.add(door)
        await self._tidy()

    async def close(self) -> None:
        """Close all connections; what is under way fails, and so does what comes later."""
        self.closed = True
        await self._give_up_reading()
        doors, self._door, self._former = {self._door, *self._former}, None, set()
        for door in doors:
            if door is not None:
                await door.close()

    async def _tidy(self) -> None:
        """Close former clients that nothing uses any more."""
        for door in [door for door in self._former if not door.users]:
            self._former.discard(door)
            await door.close()

    async def open(self) -> None:
        """Read everything, unless that has been done.

        Raises
        ------
        KubernetesError: there are no credentials, or `close` was called.
        """
        await self._opened()

    async def _opened(self) -> _Door:
        while self._door is None:
            async with self._loading:
                self._refuse_closed()
                if self._door is None:
                    door = await self._load()
                    # It has no connections before its first request.
                    self._refuse_closed()
                    self._door = door
        return self._door

    def _refuse_closed(self) -> None:
        if self.closed:
            raise KubernetesError("The access to Kubernetes has been closed.")

    async def _load(self) -> _Door:
        began = time.monotonic()
        try:
            configuration = await self._configuration()
            # Both have one configuration, and so the same token.
            clients = ApiClient(configuration), ApiClient(configuration)
            door = _Door(*clients, _identity(configuration))
            self._read, self._failure = began, ""
            return door
        except KubernetesError:
            raise
        except Exception as error:
            self._read, self._failure = (
                began,
                (
                    f"There is no usable access to a Kubernetes cluster: {_told(error)}. Set "
                    "KUBECONFIG or c.KubernetesEngine.kubeconfig, or run in a pod with a "
                    "ServiceAccount."
                ),
            )
            # Not chained: the texts of these errors may quote the kubeconfig, tokens and all.
            raise KubernetesError(self._failure) from None

    async def _configuration(self) -> Configuration:
        if self._reading is None:
            self._reading = asyncio.create_task(self._configured(), name="read credentials")
        reading = self._reading
        try:
            await asyncio.wait([reading], timeout=_PLUGIN)
        except asyncio.CancelledError:
            await self._give_up_reading()
            raise
        if not reading.done():
            # The plugin's process cannot be ended from here, and somebody may be just signing in.
            # So it goes on, and the next who asks waits for it: there are never two of them.
            raise asyncio.TimeoutError
        if reading.cancelled():
            self._refuse_closed()
        self._reading = None
        return reading.result()

    async def _give_up_reading(self) -> None:
        reading, self._reading = self._reading, None
        await stopped(reading)

    async def _configured(self) -> Configuration:
        configuration = Configuration()
        configuration.connection_pool_maxsize = _CONNECTIONS
        # Else aiohttp would ask the environment and ~/.netrc at each request, in threads; an entry
        # there makes it refuse every request that has a token.
        configuration.client_session_kwargs = {"trust_env": False}
        if not self._kubeconfig and (namespace := _own_namespace()) is not None:
            kube_config.load_incluster_config(client_configuration=configuration)
            self.namespace = namespace
            self.described = f"this pod's ServiceAccount at {configuration.host}"
        else:
            await self._read_kubeconfig(configuration)
        configuration.proxy = configuration.proxy or _proxy(configuration.host)
        if configuration.proxy:
            _check(configuration.proxy)
        return configuration

    async def _read_kubeconfig(self, configuration: Configuration) -> None:
        loader = await kube_config.load_kube_config(
            config_file=_kubeconfigs(self._kubeconfig),
            context=self._context or None,
            client_configuration=configuration,
            persist_config=False,
        )
        user: Any = loader._user
        if (
            user is not None
            and "exec" in user
            and "BearerToken" not in configuration.api_key
            and not configuration.cert_file
        ):
            # kubernetes.aio only logs that, and would go on as nobody.
            raise kube_config.ConfigException("its credential plugin (exec) gave no credentials")
        context: Any = loader.current_context["context"]
        name = loader.current_context["name"]
        self.namespace = str(context["namespace"]) if "namespace" in context else ""
        self.described = f"context {name!r} at {configuration.host}"


def _kubeconfigs(named: str) -> str:
    """The files that are to be read, as ``KUBECONFIG`` names them.

    Raises
    ------
    FileNotFoundError: none of them is there; kubernetes.aio would tell of a missing entry.
    """
    files = named or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file):
        raise FileNotFoundError(0, "there is no such file", files)
    return files


def _own_namespace() -> str | None:
    """Namespace of the pod that this process runs in; None outside of pods."""
    token = Path(SERVICE_TOKEN_FILENAME)
    if not token.exists():
        return None
    namespace = token.with_name("namespace")
    return namespace.read_text().strip() if namespace.exists() else ""


async def _authorization(configuration: Configuration) -> str:
    try:
        settings = await configuration.auth_settings()
    except (kube_config.ConfigException, OSError) as error:
        raise KubernetesError(f"The ServiceAccount's token cannot be read: {_told(error)}.") from (
            error
        )
    if "BearerToken" not in settings:
        return ""
    # Files often end with a line break.
    value = (settings["BearerToken"]["value"] or "").strip()
    if not value.isprintable():
        raise KubernetesError("The token for Kubernetes is not one line of text.")
    return value


def _identity(configuration: Configuration) -> tuple[object, ...]:
    """What a client keeps for as long as it is open, with the contents of files."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return (
        configuration.host,
        configuration.proxy,
        configuration.tls_server_name,
        configuration.verify_ssl,
        *(hashlib.sha256(Path(path).read_bytes()).digest() if path else None for path in files),
    )


def _proxy(host: str) -> str | None:
    """The proxy that the environment names for an address, by the rules of kubectl.

    ``NO_PROXY`` may have networks such as ``10.0.0.0/8``, and loopback is never behind a proxy.
    """
    address = urlsplit(host)
    proxies = getproxies_environment()
    proxy = proxies.get(address.scheme)
    if not proxy or proxy_bypass_environment(address.netloc, proxies):
        return None
    name = address.hostname or ""
    try:
        ip = ip_address(name)
    except ValueError:
        if name == "localhost":
            return None
    else:
        excluded = (part.strip() for part in proxies.get("no", "").split(","))
        if ip.is_loopback or any(_holds(network, ip) for network in excluded):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _check(proxy: str) -> None:
    """Refuse what no proxy of HTTP is: aiohttp would speak HTTP to it, and wait for an answer.

    Raises
    ------
    ConfigException
    """
    kind = urlsplit(proxy).scheme
    if kind not in ("http", "https"):
        raise kube_config.ConfigException(f"a proxy of the kind {kind}:// cannot be used")


def _holds(network: str, ip: Any) -> bool:
    try:
        return "/" in network and ip in ip_network(network, strict=False)
    except ValueError:
        return False


def _told(error: Exception) -> str:
    """What an error says, without anything that may be a secret."""
    if isinstance(error, asyncio.TimeoutError):
        return f"its credential plugin (exec) gave no answer in {_PLUGIN:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        # Errors of TLS are among them: a certificate and a key that do not belong together.
        return f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    if isinstance(error, kube_config.ConfigException):
        # It quotes whole entries of the kubeconfig as {…}.
        return str(error).partition("{")[0].strip(" /.")
    return f"the kubeconfig cannot be read ({type(error).__name__})"
