"""What a kernel is made of: its pod, then what belongs to it. It all goes when the pod goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ...errors import EngineError, KernelStartError
from ..base import KernelRequest
from ._as_read import patch_as_read, until_unchanged
from ._cluster import Cluster, Object
from ._kueue import QUEUE
from ._names import PREFIX
from ._objects import KernelPlan, Owner
from ._pods import Labels, PodPlan, claim_body, pod_body, secret_body
from ._pods import owner as reference_to
from ._settings import KubernetesSettings
from .api import CLAIMS, PODS, SECRETS, AlreadyExists, KubernetesError, NotFound
from .backends import Claim, KaiBackend, Rendered

__all__ = ["TURN", "has_gate", "image_of", "make", "make_claims", "open_gate"]

#: Gate of a pod that is to wait for its turn before a scheduler sees it.
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
    now: Sequence[Claim] | None = None,
    gated: bool = False,
) -> Object:
    """Create the pod, then what belongs to it; the pod as it was created.

    The pod is scheduled once its claims exist, and its container starts once the Secret does.

    Parameters
    ----------
    owner: whose it is.
    claims: names of the objects, by the names that the pod has for them.
    now: those that are created; the others are its maker's to create later. None: all of them.
    gated: no scheduler looks at the pod before :func:`open_gate`.

    Raises
    ------
    KernelStartError, EngineError, KubernetesError
    """
    assert kernel.keys is not None  # else its pod is there already
    settings = cluster.settings
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
    if gated:
        body["spec"]["schedulingGates"] = [
            *(body["spec"].get("schedulingGates") or []),
            {"name": TURN},
        ]
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
    wanted = rendered.claims if now is None else now
    await asyncio.gather(
        _create(cluster, SECRETS, secret), make_claims(cluster, wanted, claims, labels, mine)
    )
    return pod


async def make_claims(
    cluster: Cluster,
    wanted: Sequence[Claim],
    names: Mapping[str, str],
    labels: Labels,
    owned_by: Object,
) -> None:
    """Create claims of a kernel's pod, which the scheduler then looks at.

    Parameters
    ----------
    names: of the objects, by the names that the pod has for them.
    owned_by: reference to the pod.

    Raises
    ------
    KernelStartError, KubernetesError
    """
    bodies = [claim_body(names[each.name], labels, each.spec, owned_by=owned_by) for each in wanted]
    await asyncio.gather(*(_create(cluster, CLAIMS, body) for body in bodies))


def has_gate(pod: Object) -> bool:
    """Whether a pod was created so that no scheduler looks at it before :func:`open_gate`."""
    return any(gate.get("name") == TURN for gate in pod["spec"].get("schedulingGates") or [])


async def open_gate(cluster: Cluster, name: str) -> None:
    """Have the scheduler look at a pod that was created with our gate. Idempotent.

    Raises
    ------
    KubernetesError
    """

    async def take_off(pod: Object) -> None:
        if has_gate(pod):
            left = [gate for gate in pod["spec"]["schedulingGates"] if gate.get("name") != TURN]
            change = {"spec": {"schedulingGates": left or None}}
            await patch_as_read(cluster, PODS, pod, change)

    with suppress(NotFound):
        await until_unchanged(cluster, name, take_off)


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
    """Images of NVIDIA ask for all GPUs; a kernel without a share gets none.

    Nothing else keeps it from nodes with Windows, which have none of these images.
    """
    return Rendered(
        env={"NVIDIA_VISIBLE_DEVICES": "void"}, node_selector={"kubernetes.io/os": "linux"}
    )
