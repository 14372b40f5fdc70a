"""Calls to the Kubernetes API with plain JSON.

Connections are those of ``kubernetes.aio``; only its models are left out, as they cost more than
all the rest.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from json import JSONDecodeError
from typing import Any, TypeVar

from ._access import Access
from ._errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    QuotaExceeded,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    Unsettled,
    Untrusted,
)
from ._parsing import parsed
from ._resources import PODS, Resource
from ._transport import Transport

__all__ = ["KubeApi"]

Object = dict[str, Any]
Objects = list[Object]
T = TypeVar("T")

#: Seconds that a call may take with all its repetitions.
_CALL = 45.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: Seconds until a refusal is believed that comes right after other trouble.
_UNSURE = 1.0
#: Objects in one page of a list; bytes of what a pod printed last.
_PAGE, _LONGEST_LOG = 500, 2**18
#: How the server is asked to leave ``spec`` and ``status`` out.
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


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
        self._access = Access(kubeconfig, context)
        self._transport = Transport(self._access)
        self._patience = patience
        #: Whether the server may send lists as streams; False once it has refused one.
        self.streams_lists = True
        #: Called before each request that may change something, also a repeated one; raises where
        #: this process may write no more.
        self.guard: Callable[[], None] = lambda: None
        self._random = random.Random()  # noqa: S311 - jitter

    @property
    def namespace(self) -> str:
        """Namespace of the credentials, where they name one; known with the first answer."""
        return self._access.namespace

    @property
    def access(self) -> str:
        """By which credentials which API server is reached, in words; known with its answer."""
        return self._access.described

    # -- objects -----------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object.

        Raises
        ------
        KubernetesError
        """
        return await self._call("GET", resource, namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        **query: str,
    ) -> tuple[Objects, str]:
        """Read a collection, page by page: the objects and the position for a watch.

        Raises
        ------
        KubernetesError
        """
        return await self._list(resource, namespace, query, self._patience)

    async def list_metadata(
        self, resource: Resource, namespace: str | None = None, **query: str
    ) -> Objects:
        """Read nothing but the metadata of a collection, once.

        Raises
        ------
        KubernetesError
        """
        items, _ = await self._list(resource, namespace, query, 0.0, accept=_METADATA)
        return items

    async def select(
        self,
        resource: Resource,
        namespace: str | None,
        keep: Callable[[Object], Object | None],
        **query: str,
    ) -> Objects:
        """Read a collection of which little is of use; what is not is never in memory all at once.

        Parameters
        ----------
        keep: what is kept of each object, None for nothing.

        Raises
        ------
        KubernetesError
        """
        items, _ = await self._list(resource, namespace, query, self._patience, keep)
        return items

    async def list_once(
        self, resource: Resource, namespace: str | None = None, **query: str
    ) -> tuple[Objects, str]:
        """Read a collection as `list` does, for a caller who repeats what failed.

        Raises
        ------
        KubernetesError
        """
        return await self._list(resource, namespace, query, 0.0)

    async def select_once(
        self,
        resource: Resource,
        namespace: str | None,
        keep: Callable[[Object], Object | None],
        **query: str,
    ) -> tuple[Objects, str]:
        """Read a collection as `select` does, for a caller who repeats what failed.

        Raises
        ------
        KubernetesError
        """
        return await self._list(resource, namespace, query, 0.0, keep)

    async def _list(
        self,
        resource: Resource,
        namespace: str | None,
        query: dict[str, str],
        patience: float,
        keep: Callable[[Object], Object | None] | None = None,
        accept: str = "",
    ) -> tuple[Objects, str]:
        try:
            pages = {**query, "limit": str(_PAGE)}
            return await self._pages(resource, namespace, pages, patience, keep, accept)
        except Expired:
            # So much is written that the server forgot where the pages began: all at once then.
            return await self._pages(resource, namespace, query, patience, keep, accept)

    async def _pages(
        self,
        resource: Resource,
        namespace: str | None,
        query: dict[str, str],
        patience: float,
        keep: Callable[[Object], Object | None] | None,
        accept: str,
    ) -> tuple[Objects, str]:
        items: Objects = []
        while True:
            page = await self._call(
                "GET", resource, namespace, query=query, patience=patience, accept=accept, keep=keep
            )
            items += page.get("items") or []
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query = {**query, "continue": meta["continue"]}

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
        except (AlreadyExists, QuotaExceeded):
            # Quota is looked at before names: the object may have used up what it needs itself.
            if attempt := _attempt(body):
                with suppress(NotFound, Forbidden):
                    found = await self.get(resource, body["metadata"]["name"], namespace)
                    if _attempt(found) == attempt:
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
        Conflict: the patch names a resourceVersion, and the object has another. It may have been
            changed by this very call, whose first answer was lost.
        KubernetesError
        """
        return await self._call(
            "PATCH", resource, namespace, name, body=body, kind="application/merge-patch+json"
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str | None = None,
        version: str | None = None,
    ) -> None:
        """Delete an object; nothing where it is gone.

        Parameters
        ----------
        grace: seconds for a pod to end by itself.
        uid: delete only that very object, not a later one of the same name.
        version: delete it only as it was when it had this resourceVersion.

        Raises
        ------
        Conflict: it has changed since.
        KubernetesError
        """
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        wanted = {"uid": uid, "resourceVersion": version}
        if preconditions := {key: value for key, value in wanted.items() if value is not None}:
            body["preconditions"] = preconditions
        try:
            await self._call("DELETE", resource, namespace, name, body=body)
        except NotFound:
            return
        except Conflict:
            # Where another object has the name by now, the one that was meant is gone.
            with suppress(NotFound):
                if uid is None or await self._uid(resource, name, namespace) == uid:
                    raise

    async def _uid(self, resource: Resource, name: str, namespace: str | None) -> str:
        return str((await self.get(resource, name, namespace))["metadata"]["uid"])

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
        query = {"tailLines": str(lines), "limitBytes": str(_LONGEST_LOG)}
        path, what = f"{PODS.path(namespace, pod)}/log", f"read the log of {pod}"
        read = partial(self._transport.read, "GET", path, what, query=query)
        try:
            # Once: a kubelet that does not answer is no reason to wait.
            data = await self._repeat(read, 0.0)
        except (NotFound, Invalid):
            return ""
        return data.decode(errors="replace")

    async def renew(self, since: float | None = None) -> None:
        """Read the credentials again, as :meth:`Access.renew` does.

        Raises
        ------
        KubernetesError
        """
        await self._access.renew(since)

    async def close(self) -> None:
        """Close the connections. What is under way fails, and so does what comes later."""
        await self._access.close()
        # The transports of TLS are gone some turns of the loop later, which may end right away.
        for _ in range(5):
            await asyncio.sleep(0)

    # -- watching ----------------------------------------------------------------------------

    def stream(
        self, path: str, what: str, query: Mapping[str, str], silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Lines of a long answer. They end with an error after ``silence`` seconds without any.

        Raises
        ------
        KubernetesError
        """
        return self._transport.stream(path, what, query, silence)

    # -- repetitions -------------------------------------------------------------------------

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
        patience: float | None = None,
        accept: str = "",
        keep: Callable[[Object], Object | None] | None = None,
    ) -> Object:
        verb = {"GET": "read", "POST": "create", "PATCH": "change"}.get(method, "delete")
        what = f"{verb} {resource.plural}" + (f" in {namespace}" if namespace else "")
        path = resource.path(namespace, name)
        return await self._repeat(
            lambda: self._ask(
                method, path, what, keep=keep, body=body, query=query, kind=kind, accept=accept
            ),
            patience,
        )

    async def _repeat(
        self, attempt: Callable[[], Awaitable[T]], patience: float | None = None
    ) -> T:
        """Repeat what failed for a reason that may pass.

        Everything that is asked here may be asked twice: names are given by us, changes are
        merged, and what is deleted stays so. The error at the end is ``unsure`` where any attempt
        was.
        """
        unsure = False

        async def tried() -> T:
            nonlocal unsure
            try:
                return await attempt()
            except KubernetesError as error:
                unsure = error.unsure = unsure or error.unsure
                raise

        end = time.monotonic() + (self._patience if patience is None else patience)
        pause = _FIRST_PAUSE
        renewed = troubled = False
        while True:
            await self._access.open()
            began = time.monotonic()
            try:
                return await tried()
            except (Unauthorized, Untrusted):
                # A token or an authority that was renewed on disk, or that a plugin gives anew.
                if renewed:
                    raise
                renewed = True
                await self.renew(began)
                continue
            except QuotaExceeded:
                raise
            except Forbidden:
                # A server that has just come back says that, before it has read who may do what.
                if not troubled or time.monotonic() + _UNSURE > end:
                    raise
                troubled, wait = False, _UNSURE
            except (Unreachable, ServerTrouble, TooManyRequests, Unsettled) as error:
                troubled = True
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
        keep: Callable[[Object], Object | None] | None = None,
        **request: Any,
    ) -> Object:
        if method != "GET":
            self.guard()
        data = await self._transport.read(method, path, what, **request)
        try:
            answer: Object = await parsed(data, keep)
        except (JSONDecodeError, UnicodeDecodeError):
            answer = {}
        if not answer or not isinstance(answer, dict):
            raise ServerTrouble(
                f"What answered at {what} is no Kubernetes API; a proxy may be in between."
            )
        return answer


def _attempt(obj: Object) -> str | None:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    attempt: str | None = annotations.get("gpu-share.jupyter.org/attempt")
    return attempt
