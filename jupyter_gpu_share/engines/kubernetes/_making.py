"""What a kernel is made of: its pod, then what belongs to it. It all goes when the pod goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from ...errors import EngineError, KernelStartError
from ..base import KernelRequest
from ._cluster import Cluster, Object
from ._kueue import QUEUE
from ._names import PREFIX
from ._objects import KernelPlan, Owner
from ._pods import Labels, PodPlan, claim_body, pod_body, secret_body
from ._pods import owner as reference_to
from ._settings import KubernetesSettings
from .api import CLAIMS, PODS, SECRETS, AlreadyExists, KubernetesError
from .backends import KaiBackend, Rendered

__all__ = ["TURN", "gated_for_turn", "image_of", "let", "make"]

#: Scheduling gate of a pod whose turn has not come.
TURN = PREFIX + "turn"


async def make(
    cluster: Cluster,
    owner: Owner,
    kernel: KernelPlan,
    name: str,
    rendered: Rendered,
    claims: dict[str, str],
    labels: Labels,
    *,
    later: bool = False,
) -> Object:
    """Create the pod, then what belongs to it; the pod as it was created.

    The pod is scheduled once its claims exist, and its container starts once the Secret does.

    Parameters
    ----------
    owner: whose it is.
    claims: names of the objects, by the names that the pod has for them.
    later: the scheduler is kept from placing the pod until :func:`let`.

    Raises
    ------
    KernelStartError, EngineError, KubernetesError
    """
    if kernel.keys is None:
        raise EngineError("The kernel has no keys; start a new one.")
    settings = cluster.settings
    leased = settings.style == "lease" and not kernel.size.is_none
    plan = PodPlan(
        name=name,
        labels=labels,
        image=image_of(settings, kernel),
        files=cluster.files,
        size=kernel.size,
        rendered=_queued(
            cluster,
            owner,
            kernel,
            settings.profile(kernel.size).on(
                rendered if not kernel.size.is_none else _without_gpu()
            ),
        ),
        python=settings.python,
        flags=kernel.flags,
        hash_seed=kernel.hash_seed,
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
            "kernel_name": kernel.kernel_name,
            "path": kernel.path or "",
            "user": owner.user,
            "backend": cluster.backend.name,
            "style": settings.style,
            "instance": owner.instance,
        },
    )
    try:
        body = pod_body(plan)
    except ValueError as error:
        raise EngineError(f"A setting of c.KubernetesEngine cannot be used: {error}.") from error
    if later and not leased and not rendered.claims and not kernel.size.is_none:
        body["spec"]["schedulingGates"] = [{"name": TURN}]
    pod = await _create(cluster, PODS, body)
    mine = reference_to(pod)
    secret = secret_body(
        name,
        labels,
        kernel.keys.connection(""),
        watchdog=settings.watchdog,
        grace=settings.eviction_grace,
        owned_by=mine,
    )
    work: list[Awaitable[Any]] = [_create(cluster, SECRETS, secret)]
    if not leased and not later:
        work.append(_create_claims(cluster, pod, rendered, claims, labels))
    await asyncio.gather(*work)
    return pod


async def let(
    cluster: Cluster, pod: Object, rendered: Rendered, claims: dict[str, str], labels: Labels
) -> None:
    """Have the scheduler place a pod that was made for ``later``. Idempotent.

    In style ``lease`` it is the lease that is made later.

    Raises
    ------
    KernelStartError, KubernetesError
    """
    if cluster.settings.style != "lease":
        await _create_claims(cluster, pod, rendered, claims, labels)
    if gated_for_turn(pod):
        await cluster.api.patch(
            PODS, pod["metadata"]["name"], {"spec": {"schedulingGates": []}}, cluster.namespace
        )


def gated_for_turn(pod: Object) -> bool:
    """Whether the scheduler does not look at a pod as its turn has not come."""
    return {"name": TURN} in (pod["spec"].get("schedulingGates") or [])


async def _create_claims(
    cluster: Cluster, pod: Object, rendered: Rendered, claims: dict[str, str], labels: Labels
) -> None:
    there = cluster.own_claims(labels.server, pod["metadata"]["name"])
    await asyncio.gather(
        *(
            _create(
                cluster,
                CLAIMS,
                claim_body(claims[each.name], labels, each.spec, owned_by=reference_to(pod)),
            )
            for each in rendered.claims
            if claims[each.name] not in there
        )
    )


def _queued(cluster: Cluster, owner: Owner, kernel: KernelPlan, rendered: Rendered) -> Rendered:
    """With the queue in which the pod is to wait: of Kueue, which admits it, or of KAI."""
    settings, backend = cluster.settings, cluster.backend
    if owner.queue and isinstance(backend, KaiBackend):
        return backend.in_queue(rendered, owner.queue)
    own = settings.profile(kernel.size).queue
    queue = owner.queue or (settings.kueue_queue if own is None else own)
    return replace(rendered, labels={**rendered.labels, QUEUE: queue}) if queue else rendered


def image_of(settings: KubernetesSettings, kernel: KernelPlan | KernelRequest) -> str:
    """The image of a kernel.

    Raises
    ------
    EngineError: there is none.
    """
    image: str = settings.profile(kernel.size).image or settings.images.get(
        kernel.kernel_name, settings.image
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


def _without_gpu() -> Rendered:
    """Images of NVIDIA ask for all GPUs; a kernel without a share gets none."""
    return Rendered(env={"NVIDIA_VISIBLE_DEVICES": "void"})
