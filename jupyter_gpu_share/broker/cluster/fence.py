"""Keeps two brokers from writing at once: one of them holds a Lease, the others wait.

It is there for the moments of an upgrade and of a node that is lost, not to run several brokers.
Clocks of two machines are never held against each other: who waits counts from the moment when it
has seen the last change, who holds from the moment when it began its last renewal. What was sent
already when a process was stopped may still arrive; nothing that it sends later does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from time import monotonic
from typing import Any, NoReturn, Protocol
from uuid import uuid4

from ..._threads import to_the_end, within
from ...engines._places import Place, here
from ...engines._processes import Holder, this_process
from ...engines.kubernetes._names import ATTEMPT, MANAGED, PART, PREFIX
from ...engines.kubernetes._observed import Observed
from ...engines.kubernetes.api import (
    LEASES,
    Conflict,
    KubernetesError,
    NotFound,
    Resource,
    ServerTrouble,
    TooManyRequests,
    Unreachable,
)
from ...errors import EngineError

__all__ = ["NAME", "Fence", "FenceLost", "Leases"]

_log = logging.getLogger(__name__)

Object = dict[str, Any]

#: Name of the Lease.
NAME = "gpu-share-broker"
#: Seconds that a Lease counts for who waits; for which its holder writes after a renewal, which has
#: to be the shorter time; between two renewals, and two looks of who waits; and for an answer.
_VALID, _WRITES, _RENEWAL, _ANSWER = 15.0, 10.0, 3.0, 4.0
#: Annotation of the Lease: the process that holds it.
_PROCESS = PREFIX + "process"
#: The pod's uid, where its manifest tells it. The containers of a pod that have its broker follow
#: one another, so the one before has ended.
_POD = "POD_UID"


class FenceLost(EngineError):  # noqa: N818
    """Another broker has taken the Lease, or it is gone: this process has to end."""


class Leases(Protocol):
    """What `Fence` needs of the API: calls of ``KubeApi``."""

    def get(
        self, resource: Resource, name: str, namespace: str | None = None
    ) -> Awaitable[Object]: ...

    def create(
        self, resource: Resource, body: Object, namespace: str | None = None
    ) -> Awaitable[Object]: ...

    def patch(
        self, resource: Resource, name: str, body: Object, namespace: str | None = None
    ) -> Awaitable[Object]: ...


class Fence:
    """A broker's hold of the Lease. For one event loop.

    Parameters
    ----------
    api: without a guard, and without patience: what fails is repeated here.
    namespace: of the kernels, whose broker there is one of.
    clock: seconds; goes on while the process is stopped.
    pause: sleeps for some seconds.
    """

    def __init__(
        self,
        api: Leases,
        namespace: str,
        clock: Callable[[], float] = monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._pause = pause
        #: For people, and different for each process.
        self.identity = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        self._pod = environ.get(_POD, "")
        self._seen = Observed(clock)
        self._waited_for = ""
        self._version = ""
        self._until = float("-inf")
        self._why_lost = ""

    @property
    def held(self) -> bool:
        """Whether this process may write now."""
        return self._clock() < self._until and not self._why_lost

    def check(self) -> None:
        """Called before each write.

        Raises
        ------
        FenceLost: this process may never write again.
        Unreachable: it is not known now whether it may; it was not sent, and may be tried again.
        """
        if self._why_lost:
            raise FenceLost(self._why_lost)
        if not self.held:
            error = Unreachable(
                "The broker has not been able to renew its Lease, so it writes nothing until "
                "Kubernetes answers."
            )
            error.unsure = False
            raise error

    async def take(self) -> None:
        """Wait until the Lease is this process's.

        Raises
        ------
        KubernetesError: the API refuses, such as for a right that is missing.
        """
        while True:
            try:
                if await self._try():
                    return
            except (Unreachable, ServerTrouble, TooManyRequests, asyncio.TimeoutError) as error:
                _log.warning("The broker's Lease cannot be read yet: %s", _words(error))
            await self._pause(_RENEWAL)

    async def keep(self) -> None:
        """Renew the Lease until it is lost; only then this ends.

        While the API does not answer, nothing may be written, and nothing is lost: who comes back
        before anybody else took the Lease goes on.

        Raises
        ------
        FenceLost
        """
        while True:
            await self._pause(_RENEWAL)
            try:
                await self._renew()
            except (KubernetesError, asyncio.TimeoutError) as error:
                _log.info("The broker's Lease could not be renewed: %s", _words(error))

    async def release(self) -> None:
        """Write nothing from here on, and let the next broker begin at once."""
        held, self._until = self.held, float("-inf")
        if held:
            with suppress(KubernetesError, asyncio.TimeoutError):
                await to_the_end(self._patch({"spec": {"holderIdentity": ""}}))

    # -- one step ----------------------------------------------------------------------------

    async def _try(self) -> bool:
        """Look at the Lease, and take it if it is free; whether it is ours now."""
        try:
            lease = await self._answer(self._api.get(LEASES, NAME, self._namespace))
        except NotFound:
            began = self._clock()
            with suppress(Conflict):  # another one was faster
                made = self._api.create(LEASES, self._body(), self._namespace)
                return self._took(await self._answer(made), began)
            return False
        holder = _holder(lease)
        if holder and holder != self.identity and not self._over(lease):
            if holder != self._waited_for:
                self._waited_for = holder
                _log.warning(
                    "The broker %s works in the namespace %s; this one waits until that ends",
                    holder,
                    self._namespace,
                )
            return False
        self._version = lease["metadata"]["resourceVersion"]
        began = self._clock()
        with suppress(Conflict, NotFound):
            body = self._body()
            change = {"metadata": {"annotations": body["metadata"]["annotations"]}}
            return self._took(await self._patch({**change, "spec": body["spec"]}), began)
        return False

    def _over(self, lease: Object) -> bool:
        """Whether a Lease counts no longer, by its holder's process or by this process's clock."""
        spec = lease.get("spec") or {}
        sign: Hashable = (lease["metadata"]["uid"], _holder(lease), spec.get("renewTime"))
        age = self._seen.age(NAME, sign)
        return age > float(spec.get("leaseDurationSeconds") or _VALID) or self._known_dead(lease)

    def _known_dead(self, lease: Object) -> bool:
        try:
            told = json.loads(lease["metadata"]["annotations"][_PROCESS])
            process, place = Holder(int(told["pid"]), told["start"]), Place(**told["place"])
            if self._pod and told["pod"] == self._pod and not place.is_here:
                return True
            return place.is_here and not process.alive
        except (KeyError, TypeError, ValueError):
            return False

    async def _renew(self) -> None:
        began = self._clock()
        try:
            renewed = await self._patch({"spec": {"renewTime": _timestamp()}})
        except NotFound as error:
            self._lose(f"its Lease {NAME} is gone", error)
        except Conflict as error:
            try:
                lease = await self._answer(self._api.get(LEASES, NAME, self._namespace))
            except NotFound as gone:
                self._lose(f"its Lease {NAME} is gone", gone)
            if _holder(lease) != self.identity:
                self._lose(f"the broker {_holder(lease) or 'of nobody'} has taken its place", error)
            self._version = lease["metadata"]["resourceVersion"]
            began = self._clock()
            renewed = await self._patch({"spec": {"renewTime": _timestamp()}})
        self._took(renewed, began)

    def _took(self, lease: Object, began: float) -> bool:
        """Note that the Lease is ours, as of the moment when that was asked for."""
        self._version = lease["metadata"]["resourceVersion"]
        self._until = began + _WRITES
        return True

    def _lose(self, why: str, cause: Exception) -> NoReturn:
        self._until = float("-inf")
        self._why_lost = f"The broker ends, as {why}."
        raise FenceLost(self._why_lost) from cause

    async def _patch(self, change: Object) -> Object:
        """Change the Lease as it was seen last, or not at all."""
        meta = {**change.get("metadata", {}), "resourceVersion": self._version}
        body = {**change, "metadata": meta}
        return await self._answer(self._api.patch(LEASES, NAME, body, self._namespace))

    async def _answer(self, asked: Awaitable[Object]) -> Object:
        return await within(_ANSWER, asked)

    def _body(self) -> Object:
        holder = this_process()
        told = {
            "pid": holder.pid,
            "start": holder.start_time,
            "place": asdict(here()),
            "pod": self._pod,
        }
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {
                "name": NAME,
                "labels": {MANAGED[0]: MANAGED[1], PART: "broker"},
                "annotations": {_PROCESS: json.dumps(told), ATTEMPT: self.identity},
            },
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": round(_VALID),
                "renewTime": _timestamp(),
            },
        }


def _holder(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _words(error: Exception) -> str:
    return str(error) or "no answer in time"


def _timestamp() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
