"""Calls to the Kubernetes API with plain JSON.

Configuration, credentials, TLS and proxies are those of ``kubernetes.aio``; only the models are
left out, as they cost more than all the rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import SERVICE_TOKEN_FILENAME

from ._errors import (
    AlreadyExists,
    KubernetesError,
    NotFound,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    error_of,
)
from ._resources import Resource

__all__ = ["KubeApi"]

_log = logging.getLogger(__name__)

Object = dict[str, Any]

#: Seconds that one request may take, and that a call with all its repetitions may.
_REQUEST, _CALL = 15.0, 45.0
_CONNECT = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECTIONS = 32
_AGENT = "jupyter-gpu-share"

_LOST = (aiohttp.ClientError, asyncio.TimeoutError, ssl.SSLError, OSError)


class KubeApi:
    """The API of one cluster. Belongs to the event loop on which it is first used.

    Parameters
    ----------
    kubeconfig: path of a kubeconfig; empty: the pod's own ServiceAccount where there is one, else
        the kubeconfig that kubectl would take.
    context: of the kubeconfig; empty: its current one.
    patience: seconds that a call may take with all its repetitions.
    """

    def __init__(self, kubeconfig: str = "", context: str = "", *, patience: float = _CALL) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._patience = patience
        self._client: ApiClient | None = None
        self._loading = asyncio.Lock()
        self._random = random.Random()  # noqa: S311 - jitter
        #: Namespace of the credentials, where they name one.
        self.namespace = ""
        #: Monotonic time of the last answer of any kind; 0 before the first.
        self.last_contact = 0.0

    # -- objects -----------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object.

        Raises
        ------
        KubernetesError
        """
        return await self._call("GET", resource, namespace, name)

    async def list(
        self, resource: Resource, namespace: str | None = None, **query: str
    ) -> tuple[list[Object], str]:
        """Read a collection, page by page: the objects and the position for a watch.

        Raises
        ------
        KubernetesError
        """
        items: list[Object] = []
        query = {"limit": "500", **query}
        while True:
            page = await self._call("GET", resource, namespace, query=query)
            items += page.get("items") or []
            meta = page["metadata"]
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query["continue"] = meta["continue"]

    async def create(
        self, resource: Resource, body: Object, namespace: str | None = None
    ) -> Object:
        """Create an object, or adopt it where an earlier attempt of this call has made it.

        An answer may be lost although the object was made. The object is known again by the
        annotation ``gpu-share.jupyter.org/attempt``, which the caller makes unique.

        Raises
        ------
        AlreadyExists: somebody else's object has the name.
        KubernetesError
        """
        try:
            return await self._call("POST", resource, namespace, body=body)
        except AlreadyExists:
            found = await self.get(resource, body["metadata"]["name"], namespace)
            if _attempt(found) and _attempt(found) == _attempt(body):
                return found
            raise

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Object,
        namespace: str | None = None,
    ) -> Object:
        """Change an object by a merge patch.

        Raises
        ------
        KubernetesError
        """
        return await self._call(
            "PATCH", resource, namespace, name, body=body, kind="application/merge-patch+json"
        )

    async def replace(
        self, resource: Resource, name: str, body: Object, namespace: str | None = None
    ) -> Object:
        """Put an object in the place of the one that it was read as.

        Raises
        ------
        Conflict: it has changed meanwhile.
        KubernetesError
        """
        return await self._call("PUT", resource, namespace, name, body=body)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Delete an object; nothing where it is gone.

        Parameters
        ----------
        grace: seconds for a pod to end by itself.
        uid: delete only that very object, not a later one of the same name.

        Raises
        ------
        KubernetesError
        """
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", resource, namespace, name, body=body)
        except NotFound:
            return

    async def version(self) -> Object:
        """What the API server says of itself.

        Raises
        ------
        KubernetesError
        """
        return await self._repeat(lambda: self._ask("GET", "/version", "read the version"))

    async def groups(self) -> frozenset[str]:
        """API groups with version that the server offers, such as ``resource.k8s.io/v1``.

        Raises
        ------
        KubernetesError
        """
        found = await self._repeat(lambda: self._ask("GET", "/apis", "list the API groups"))
        return frozenset(
            version["groupVersion"] for group in found["groups"] for version in group["versions"]
        )

    async def allowed(
        self, verb: str, resource: Resource, namespace: str | None, subresource: str = ""
    ) -> bool:
        """Whether the credentials allow something, by the API server's own word.

        Raises
        ------
        KubernetesError
        """
        attributes = {"verb": verb, "group": resource.group, "resource": resource.plural}
        if namespace:
            attributes["namespace"] = namespace
        if subresource:
            attributes["subresource"] = subresource
        review = Resource(
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            namespaced=False,
        )
        body = {
            "apiVersion": review.api_version,
            "kind": review.kind,
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._call("POST", review, body=body)
        return bool(answer["status"]["allowed"])

    async def log(self, pod: str, namespace: str, lines: int) -> str:
        """The last lines that a pod printed; empty where there is no log.

        Raises
        ------
        KubernetesError
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        async with self._request(
            "GET", path, f"read the log of {pod}", query={"tailLines": str(lines)}
        ) as response:
            return (await response.read()).decode(errors="replace")

    async def close(self) -> None:
        """Close the connections."""
        await self._forget()
        # The transports of TLS are gone some turns of the loop later, which may end right away.
        for _ in range(5):
            await asyncio.sleep(0)

    # -- watching ----------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(
        self, path: str, what: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of a long answer. Ends with an error after ``silence`` seconds without any.

        Raises
        ------
        KubernetesError
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        async with self._request("GET", path, what, query=query, timeout=limits) as response:
            yield self._lines(response, what)

    async def _lines(self, response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
        rest = bytearray()
        try:
            async for chunk in response.content.iter_any():
                self.last_contact = time.monotonic()
                rest += chunk
                while (end := rest.find(b"\n")) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    yield line
        except _LOST as error:
            raise _unreachable(error, what) from error

    # -- one request, and repetitions --------------------------------------------------------

    async def _call(
        self,
        method: str,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Object:
        verb = {"GET": "read", "POST": "create", "PATCH": "change", "PUT": "change"}.get(
            method, "delete"
        )
        what = f"{verb} {resource.plural}" + (f" in {namespace}" if namespace else "")
        path = resource.path(namespace, name)
        return await self._repeat(
            lambda: self._ask(method, path, what, body=body, query=query, kind=kind)
        )

    async def _repeat(self, attempt: Callable[[], Any]) -> Object:
        """Repeat what failed for a reason that may pass.

        Everything that is asked here may be asked twice: names are given by us, changes are
        merged, and what is deleted stays so.
        """
        end = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        renewed = False
        while True:
            try:
                result: Object = await attempt()
                return result
            except Unauthorized:
                # A token that was renewed on disk, or that a plugin gives anew.
                if renewed:
                    raise
                renewed = True
                await self._forget()
                continue
            except (Unreachable, ServerTrouble, TooManyRequests) as error:
                wait = max(error.retry_after or 0.0, pause * self._random.uniform(0.5, 1.5))
                if time.monotonic() + wait > end:
                    raise
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Object:
        async with self._request(method, path, what, body=body, query=query, kind=kind) as response:
            try:
                answer: Object = json.loads(await response.read())
            except _LOST as error:
                raise _unreachable(error, what) from error
            except ValueError as error:
                raise ServerTrouble(
                    f"What answered at {what} is no Kubernetes API; a proxy may be in between."
                ) from error
            return answer

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        client = await self._opened()
        headers = {"Accept": "application/json", "Content-Type": kind, "User-Agent": _AGENT}
        settings = await client.configuration.auth_settings()
        if "BearerToken" in settings:
            headers["Authorization"] = settings["BearerToken"]["value"]
        url = client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = await client.rest_client.request(
                method,
                url,
                headers=headers,
                body=body,
                _request_timeout=timeout
                or aiohttp.ClientTimeout(total=_REQUEST, sock_connect=_CONNECT),
            )
        except _LOST as error:
            raise _unreachable(error, what) from error
        response: aiohttp.ClientResponse = answer.response
        try:
            self.last_contact = time.monotonic()
            if response.status >= 400:
                try:
                    text = await response.read()
                except _LOST as error:
                    raise _unreachable(error, what) from error
                raise error_of(response.status, text, what, retry_after=_retry_after(response))
            yield response
        finally:
            # What is left unread would keep the connection busy.
            if response.content.at_eof():
                response.release()
            else:
                _abort(response)

    # -- credentials -------------------------------------------------------------------------

    async def _opened(self) -> ApiClient:
        if self._client is not None:
            return self._client
        async with self._loading:
            if self._client is None:
                configuration = Configuration()
                configuration.connection_pool_maxsize = _CONNECTIONS
                await self._load(configuration)
                self._client = ApiClient(configuration)
        return self._client

    async def _forget(self) -> None:
        """Have the credentials read again at the next request."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _load(self, configuration: Configuration) -> None:
        try:
            if not self._kubeconfig and (namespace := _own_namespace()) is not None:
                kube_config.load_incluster_config(client_configuration=configuration)
                self.namespace = namespace
                return
            loader = await kube_config.load_kube_config(
                config_file=self._kubeconfig or None,
                context=self._context or None,
                client_configuration=configuration,
                persist_config=False,
            )
            context: Any = loader.current_context["context"]
            self.namespace = str(context["namespace"]) if "namespace" in context else ""
        except (kube_config.ConfigException, OSError, ValueError) as error:
            raise KubernetesError(
                f"There is no usable access to a Kubernetes cluster: {error}. Run the Jupyter "
                "server in a pod with a ServiceAccount, or set c.KubernetesEngine.kubeconfig."
            ) from error


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop the connection at once: closing it in form would go on after the loop has ended."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def _own_namespace() -> str | None:
    """Namespace of the pod that this process runs in; None outside of pods."""
    token = Path(SERVICE_TOKEN_FILENAME)
    if not token.exists():
        return None
    namespace = token.with_name("namespace")
    return namespace.read_text().strip() if namespace.exists() else ""


def _attempt(obj: Object) -> str | None:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    attempt: str | None = annotations.get("gpu-share.jupyter.org/attempt")
    return attempt


def _unreachable(error: BaseException, what: str) -> Unreachable:
    # Of the error only its kind is told: aiohttp's texts may hold a URL with its query.
    kind = type(error).__name__
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        reason = "its certificate is not accepted"
    elif isinstance(error, asyncio.TimeoutError):
        reason = "it did not answer in time"
    else:
        reason = "no connection"
    return Unreachable(
        f"The Kubernetes API cannot be reached: {reason} ({what}, {kind}). Running kernels go on."
    )


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return None
