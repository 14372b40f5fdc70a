"""What a kernel is made of: its pod, then what belongs to it. It all goes when the pod goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import zmq

from ...errors import EngineError, KernelStartError
from .._hash_seed import HASH_SEED
from ..base import Connection, KernelRequest
from ._cluster import Cluster, Object
from ._command import flags_of
from ._kueue import QUEUE
from ._pods import PORTS, Labels, PodPlan, claim_body, owner, pod_body, secret_body
from ._settings import KubernetesSettings
from .api import CLAIMS, PODS, SECRETS, AlreadyExists, KubernetesError
from .backends import Rendered

__all__ = ["Made", "image_of", "make"]


@dataclass(frozen=True)
class Made:
    """A pod that was created, and how to reach what will run in it but for its address."""

    pod: Object
    connection: Connection


async def make(
    cluster: Cluster,
    request: KernelRequest,
    name: str,
    rendered: Rendered,
    claims: dict[str, str],
    labels: Labels,
) -> Made:
    """Create the pod, then what belongs to it.

    The pod is scheduled once its claims exist, and its container starts once the Secret does.

    Parameters
    ----------
    claims: names of the objects, by the names that the pod has for them.

    Raises
    ------
    KernelStartError, EngineError, KubernetesError
    """
    settings = cluster.settings
    leased = settings.style == "lease" and not request.size.is_none
    plan = PodPlan(
        name=name,
        labels=labels,
        image=image_of(settings, request),
        files=cluster.files,
        size=request.size,
        rendered=_queued(
            settings,
            request,
            settings.profile(request.size).on(
                rendered if not request.size.is_none else _without_gpu()
            ),
        ),
        python=settings.python,
        flags=flags_of(request.argv),
        hash_seed=request.env.get(HASH_SEED, ""),
        pull_policy=settings.image_pull_policy,
        service_account=settings.service_account,
        cpu=settings.cpu,
        memory=settings.memory,
        memory_limit=settings.memory_limit,
        deadline=settings.longest_life,
        grace=settings.eviction_grace,
        working_dir=settings.working_dir,
        tolerations=settings.tolerations,
        claims=claims,
        patches=settings.additions,
        notes={
            "kernel_name": request.kernel_name,
            "path": request.path or "",
            "user": request.user or "",
            "backend": cluster.backend.name,
            "style": settings.style,
            "instance": cluster.instance,
        },
    )
    try:
        body = pod_body(plan)
    except ValueError as error:
        raise EngineError(f"A setting of c.KubernetesEngine cannot be used: {error}.") from error
    pod = await _create(cluster, PODS, body)
    mine = owner(pod)
    connection = _new_connection(settings, request)
    secret = secret_body(
        name,
        labels,
        connection,
        watchdog=settings.watchdog,
        grace=settings.eviction_grace,
        owned_by=mine,
    )
    work: list[Awaitable[Object]] = [_create(cluster, SECRETS, secret)]
    if not leased:
        work += [
            _create(
                cluster, CLAIMS, claim_body(claims[each.name], labels, each.spec, owned_by=mine)
            )
            for each in rendered.claims
        ]
    await asyncio.gather(*work)
    return Made(pod, connection)


def _queued(settings: KubernetesSettings, request: KernelRequest, rendered: Rendered) -> Rendered:
    """With the LocalQueue by which Kueue admits the pod, if there is to be one."""
    own = settings.profile(request.size).queue
    queue = settings.kueue_queue if own is None else own
    return replace(rendered, labels={**rendered.labels, QUEUE: queue}) if queue else rendered


def image_of(settings: KubernetesSettings, request: KernelRequest) -> str:
    """The image of a kernel.

    Raises
    ------
    EngineError: there is none.
    """
    image: str = settings.profile(request.size).image or settings.images.get(
        request.kernel_name, settings.image
    )
    if not image:
        raise EngineError(
            "No image is set for kernels; the administrator sets c.KubernetesEngine.image to one "
            "that has ipykernel."
        )
    return image


async def _create(cluster: Cluster, resource: Any, body: Object) -> Object:
    try:
        return await cluster.api.create(resource, body, cluster.namespace)
    except AlreadyExists as error:
        raise KernelStartError(
            f"Kubernetes still has the {resource.kind} of an earlier kernel with this id; try "
            "again in a moment."
        ) from error
    except KubernetesError as error:
        if "violates PodSecurity" in error.detail or "denied" in error.detail:
            raise KernelStartError(
                f"The cluster's rules do not allow the kernel's pod: {error.detail}. Tell the "
                "administrator."
            ) from error
        raise


def _new_connection(settings: KubernetesSettings, request: KernelRequest) -> Connection:
    keys: tuple[str | None, str | None] = None, None
    if settings.encrypt:
        public, secret = zmq.curve_keypair()
        keys = public.decode(), secret.decode()
    return Connection(
        transport="tcp",
        ip="",
        ports=PORTS,
        key=request.key,
        signature_scheme=request.signature_scheme,
        curve_publickey=keys[0],
        curve_secretkey=keys[1],
    )


def _without_gpu() -> Rendered:
    """Images of NVIDIA ask for all GPUs; a kernel without a share gets none."""
    return Rendered(env={"NVIDIA_VISIBLE_DEVICES": "void"})
