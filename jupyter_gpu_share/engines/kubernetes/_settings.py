"""What an administrator can set of the engine ``kubernetes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from traitlets import (
    Bool,
    CaselessStrEnum,
    Dict,
    Float,
    Integer,
    List,
    TraitError,
    Unicode,
    validate,
)

from ...errors import EngineError
from ..base import Engine
from ._environment import ALLOWED

if TYPE_CHECKING:
    from ...size import Size
    from ._profiles import Profile
    from .backends import Kind, Placement

__all__ = ["KubernetesSettings"]


class KubernetesSettings(Engine):
    """The traits of :class:`~jupyter_gpu_share.engines.kubernetes.KubernetesEngine`."""

    # -- the cluster -------------------------------------------------------------------------

    kubeconfig = Unicode(
        "",
        config=True,
        help="""
        Path of a kubeconfig. Default: the ServiceAccount of the pod that the Jupyter server runs
        in, else the kubeconfig that kubectl takes.

        ::

            c.KubernetesEngine.kubeconfig = "/etc/jupyter/kernels.kubeconfig"
        """,
    )
    context = Unicode(
        "",
        config=True,
        help="""
        Context of the kubeconfig. Default: its current one.

        ::

            c.KubernetesEngine.context = "gpu-cluster"
        """,
    )
    namespace = Unicode(
        "",
        config=True,
        help="""
        Namespace of the kernels' pods. Default: that of the credentials, else ``default``.

        ::

            c.KubernetesEngine.namespace = "notebooks"
        """,
    )
    server_name = Unicode(
        "",
        config=True,
        help="""
        Identity of this Jupyter server in the cluster: the label of all that it makes. It has to
        stay the same over restarts, and no other server of the namespace may have it. Default:
        the name of the ServiceAccount where there is one, else made from user, host and folder.

        ::

            c.KubernetesEngine.server_name = "alice"
        """,
    )
    watch_period = Float(
        300.0,
        min=1.0,
        config=True,
        help="""
        Seconds after which a watch of the cluster is begun anew; up to a fifth less, so that not
        all servers do it at once. A connection that the network has lost is noticed within 30 s,
        one that stands without a word after 90 s, as the API server is heard every minute. Where
        nothing has changed in a watch, of which it says nothing either, the next one is begun anew
        after 75 s. Default 300.

        ::

            c.KubernetesEngine.watch_period = 60
        """,
    )

    # -- shares ------------------------------------------------------------------------------

    backend = CaselessStrEnum(
        ["auto", "dra", "kai", "hami", "device-plugin", "mig"],
        default_value="auto",
        config=True,
        help="""
        How the cluster splits GPUs. Default ``auto``: what the cluster offers.

        ::

            c.KubernetesEngine.backend = "dra"
        """,
    )
    backend_options = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Options of the sharing backend, as docs/backends.md lists them. Default: none.

        ::

            c.KubernetesEngine.backend_options = {"queue": "notebooks"}
        """,
    )
    style = CaselessStrEnum(
        ["pod", "lease", "annotation"],
        default_value="pod",
        config=True,
        help="""
        How a share is held: by the kernel's ``pod`` itself; by a ``lease`` beside it (DRA); by an
        ``annotation`` (KAI). Default ``pod``.

        ::

            c.KubernetesEngine.style = "lease"
        """,
    )

    lease_image = Unicode(
        "registry.k8s.io/pause:3.10",
        config=True,
        help="""
        Image of the pods that hold shares in style ``lease``; any that waits. Default
        ``registry.k8s.io/pause:3.10``.

        ::

            c.KubernetesEngine.lease_image = "registry.example.org/pause:3.10"
        """,
    )

    # -- pods --------------------------------------------------------------------------------

    image = Unicode(
        "",
        config=True,
        help="""
        Image of kernels; it needs Python with ipykernel 7.3 or later, and nothing of this
        package. No default.

        ::

            c.KubernetesEngine.image = "quay.io/jupyter/pytorch-notebook:cuda12-latest"
        """,
    )
    images = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Images by name of the kernelspec, where they differ from ``image``. Default: none.

        ::

            c.KubernetesEngine.images = {"r": "registry.example.org/r-kernel:4.5"}
        """,
    )
    image_pull_policy = CaselessStrEnum(
        ["IfNotPresent", "Always", "Never"],
        default_value="IfNotPresent",
        config=True,
        help="""
        When the image is pulled. Default ``IfNotPresent``.

        ::

            c.KubernetesEngine.image_pull_policy = "Always"
        """,
    )
    python = Unicode(
        "python3",
        config=True,
        help="""
        The interpreter in the image that has ipykernel. Default ``python3``.

        ::

            c.KubernetesEngine.python = "/opt/conda/bin/python"
        """,
    )
    service_account = Unicode(
        "",
        config=True,
        help="""
        ServiceAccount of kernels; it needs no rights, and its token is never mounted. Default:
        the namespace's default one.

        ::

            c.KubernetesEngine.service_account = "gpu-share-kernel"
        """,
    )
    working_dir = Unicode(
        "",
        config=True,
        help="""
        Folder in which kernels start. Default: the image's own.

        ::

            c.KubernetesEngine.working_dir = "/home/jovyan/work"
        """,
    )
    cpu = Unicode(
        "100m",
        config=True,
        help="""
        CPU that a kernel requests, as a quantity. Default ``100m``, a tenth of a core: kernels
        that think of the next cell need none, and others take what is free.

        ::

            c.KubernetesEngine.cpu = "1"
        """,
    )
    memory = Unicode(
        "",
        config=True,
        help="""
        Memory of the machine that a kernel requests, as a quantity. Default: none.

        ::

            c.KubernetesEngine.memory = "4Gi"
        """,
    )
    memory_limit = Unicode(
        "",
        config=True,
        help="""
        Memory of the machine that a kernel may use, as a quantity. Default: no limit.

        ::

            c.KubernetesEngine.memory_limit = "16Gi"
        """,
    )
    environment = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Environment that every kernel gets. It can be read in the cluster: nothing secret here.
        Default: none.

        ::

            c.KubernetesEngine.environment = {"HF_HOME": "/cache/huggingface"}
        """,
    )
    allowed_environment = List(
        Unicode(),
        default_value=list(ALLOWED),
        config=True,
        help="""
        Names of variables that kernels get from the Jupyter server, ``*`` stands for anything.
        What a kernelspec sets itself always goes with it; everything else stays here. Default:
        language, time zone and the notebook's name.

        ::

            c.KubernetesEngine.allowed_environment = ["LANG", "LC_*", "TZ", "WANDB_PROJECT"]
        """,
    )
    volumes = List(
        Dict(),
        config=True,
        help="""
        Volumes of kernels' pods, as in a pod's spec; no ``hostPath``. Default: none.

        ::

            c.KubernetesEngine.volumes = [
                {"name": "home", "persistentVolumeClaim": {"claimName": "home-alice"}}]
        """,
    )
    volume_mounts = List(
        Dict(),
        config=True,
        help="""
        Where the kernel's container has the volumes. Default: none.

        ::

            c.KubernetesEngine.volume_mounts = [{"name": "home", "mountPath": "/home/jovyan"}]
        """,
    )
    node_selector = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Labels that the nodes of kernels must have. Default: none.

        ::

            c.KubernetesEngine.node_selector = {"pool": "interactive"}
        """,
    )
    tolerations = List(
        Dict(),
        config=True,
        help="""
        Taints of nodes that kernels tolerate, as in a pod's spec. Those with a GPU tolerate
        ``nvidia.com/gpu`` in any case. Default: none.

        ::

            c.KubernetesEngine.tolerations = [{"key": "team", "operator": "Exists"}]
        """,
    )
    kinds = List(
        Dict(),
        config=True,
        help="""
        Kinds of nodes with GPUs that the cluster can have, whether or not one is there now: what an
        autoscaler brings is refused to nobody. Each is a dict of ``memory`` of a GPU and optionally
        ``model``, ``gpus`` of a node (1), ``sharing`` by NVIDIA's device plugin (``none``,
        ``time-slicing``, ``mps``, ``mig``), ``replicas`` of each GPU, MIG ``profile``,
        ``node_selector``, ``tolerations`` and ``most`` such nodes. What nodes with those labels do
        not tell of themselves is taken from it. Default: none.

        ::

            c.KubernetesEngine.kinds = [
                {"model": "A100", "memory": "80GiB", "sharing": "time-slicing", "replicas": 4,
                 "node_selector": {"pool": "a100"}, "most": 8}]
        """,
    )
    sizes = Dict(
        key_trait=Unicode(),
        value_trait=Dict(),
        config=True,
        help="""
        What a size brings besides its share: an ``image`` before all others, a ``node_selector``
        and ``tolerations`` besides those of all kernels, the ``model`` of a declared kind of
        nodes, to which it goes, and a ``kueue_queue`` instead of that of all kernels. Default:
        nothing.

        ::

            c.KubernetesEngine.sizes = {
                "1": {"model": "A100"},
                "0": {"image": "quay.io/jupyter/scipy-notebook", "node_selector": {"pool": "cpu"}}}
        """,
    )
    pod_patch = Dict(
        config=True,
        help="""
        Strategic merge patch laid over every kernel's pod, for all that has no setting of its own.
        The kernel's container is called ``kernel``. What comes out is checked: no privileges, no
        part of the machine, nothing that this package relies on changed. Default: none.

        ::

            c.KubernetesEngine.pod_patch = {"spec": {"imagePullSecrets": [{"name": "registry"}]}}
        """,
    )

    # -- life --------------------------------------------------------------------------------

    encrypt = Bool(
        True,
        config=True,
        help="""
        Whether the connections to kernels are encrypted (CURVE); that needs ipykernel 7.3 in the
        image. They are signed in any case. Default True.

        ::

            c.KubernetesEngine.encrypt = False
        """,
    )
    adopt = Bool(
        True,
        config=True,
        help="""
        Whether a Jupyter server that starts again takes over the kernels that still run, with
        their variables. With False they are ended. Default True.

        ::

            c.KubernetesEngine.adopt = False
        """,
    )
    watchdog = Float(
        600.0,
        min=5.0,
        config=True,
        help="""
        Seconds after which a kernel's pod ends by itself if no Jupyter server was heard. Default
        600: a server may be away for ten minutes before its kernels are lost.

        ::

            c.KubernetesEngine.watchdog = 3600
        """,
    )
    renewal = Float(
        15.0,
        min=0.5,
        config=True,
        help="""
        Seconds between two signs of life to each kernel's pod. Default 15. They are most of what
        an idle kernel costs the server.

        ::

            c.KubernetesEngine.renewal = 30
        """,
    )
    image_patience = Float(
        600.0,
        min=0.0,
        config=True,
        help="""
        Seconds in which a node may try again to pull a kernel's image, or to make its container,
        before the start fails: a registry may be away or overloaded for a while. What no further
        attempt can change, such as an image that does not exist, fails at once. Default 600.

        ::

            c.KubernetesEngine.image_patience = 1800
        """,
    )
    longest_life = Integer(
        7 * 24 * 3600,
        min=0,
        config=True,
        help="""
        Seconds after which Kubernetes ends a kernel's pod whatever happens; 0 for never. Default
        604800, a week.

        ::

            c.KubernetesEngine.longest_life = 86400
        """,
    )
    eviction_grace = Integer(
        120,
        min=1,
        config=True,
        help="""
        Seconds that a kernel's pod has to end where somebody else ends it: when its node is
        drained, its place is taken by work of higher priority, or it is deleted. The kernel's
        variables are saved in that time. Whoever wants its place waits as long at most. Up to 6
        leave no time for saving. Default 120.

        ::

            c.KubernetesEngine.eviction_grace = 300
        """,
    )
    sweep_interval = Float(
        60.0,
        min=1.0,
        config=True,
        help="""
        Seconds between two looks for what ended kernels and dead servers have left. Default 60.

        ::

            c.KubernetesEngine.sweep_interval = 300
        """,
    )

    kueue_queue = Unicode(
        "",
        config=True,
        help="""
        LocalQueue by which Kueue admits kernels' pods: they wait for its quota before the scheduler
        sees them. Kueue counts what the pod itself asks for, not its ResourceClaims. Default: none.

        ::

            c.KubernetesEngine.kueue_queue = "notebooks"
        """,
    )
    longest_wait = Float(
        0.0,
        min=0.0,
        config=True,
        help="""
        Seconds that a kernel may wait for its place before its start fails; 0 for as long as it
        takes. A kernel that lives on without its share waits for it without an end; variables that
        were saved stay saved when the wait for them ends. Default 0.

        ::

            c.KubernetesEngine.longest_wait = 3600
        """,
    )
    node_patience = Float(
        3600.0,
        min=0.0,
        config=True,
        help="""
        Seconds that a node may take to bring a kernel up that has its place there (pull the image,
        mount volumes, say which GPU it has) before the start fails; 0 for as long as it takes.
        Default 3600.

        ::

            c.KubernetesEngine.node_patience = 900
        """,
    )

    @validate("kueue_queue")
    def _validate_kueue_queue(self, proposal: dict[str, Any]) -> str:
        from ._kueue import wrong_queue

        name: str = proposal["value"]
        if (wrong := wrong_queue(name)) is not None:
            raise TraitError(f"c.KubernetesEngine.kueue_queue: {wrong}.")
        return name

    @validate("kinds")
    def _validate_kinds(self, proposal: dict[str, Any]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = proposal["value"]
        try:
            _kinds(entries)
        except EngineError as error:
            raise TraitError(str(error)) from error
        return entries

    @property
    def memory_to_come(self) -> list[int]:
        """Bytes of a GPU, or of a MIG instance, of each declared kind of nodes."""
        return [kind.told.memory for kind in self.declared]

    @validate("sizes")
    def _validate_sizes(self, proposal: dict[str, Any]) -> dict[str, Any]:
        entries: dict[str, Any] = proposal["value"]
        try:
            known = _profiles(entries, self.declared)
        except EngineError as error:
            raise TraitError(str(error)) from error
        for size, profile in known.items():
            for name, value in profile.placement.node_selector.items():
                if self.node_selector.get(name, value) != value:
                    raise TraitError(
                        f"c.KubernetesEngine.sizes, {size}: c.KubernetesEngine.node_selector says "
                        f"something else of {name}."
                    )
        return entries

    @property
    def profiles(self) -> Mapping[Size, Profile]:
        """What sizes bring besides their shares, of those that bring anything."""
        return _profiles(self.sizes, self.declared)

    def profile(self, size: Size) -> Profile:
        """What a size brings besides its share."""
        from ._profiles import Profile

        return self.profiles.get(size, Profile())

    @property
    def queues(self) -> set[str]:
        """LocalQueues of Kueue that kernels may have."""
        own = {profile.queue for profile in self.profiles.values()}
        return {queue for queue in (self.kueue_queue, *own) if queue}

    @property
    def declared(self) -> list[Kind]:
        """The kinds of nodes that the cluster can have."""
        return _kinds(self.kinds)

    @property
    def placement(self) -> Placement:
        """Where kernels with a GPU go by these settings.

        Raises
        ------
        EngineError: ``pod_patch`` cannot be merged.
        """
        from .backends import GPU_TOLERATION, Placement

        spec = self._patched({"tolerations": [*self.tolerations, GPU_TOLERATION]})
        return Placement(spec.get("nodeSelector") or {}, spec.get("tolerations") or [])

    @property
    def pull_secrets(self) -> list[Mapping[str, Any]]:
        """By which kernels' images are pulled, by these settings.

        Raises
        ------
        EngineError: ``pod_patch`` cannot be merged.
        """
        return self._patched({}).get("imagePullSecrets") or []

    def _patched(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        from ._merge import merge

        for part in self.additions:
            spec = merge(spec, part.get("spec") or {})
        return spec

    @property
    def additions(self) -> tuple[Mapping[str, Any], ...]:
        """The administrator's settings as patches of the pod, one laid over the other.

        Raises
        ------
        EngineError: an entry that cannot be merged.
        """
        from ._merge import merge
        from .backends import CONTAINER

        container: dict[str, Any] = {"name": CONTAINER}
        if self.environment:
            container["env"] = [
                {"name": name, "value": value} for name, value in self.environment.items()
            ]
        if self.volume_mounts:
            container["volumeMounts"] = list(self.volume_mounts)
        parts = {
            "volumes": list(self.volumes),
            "nodeSelector": dict(self.node_selector),
            "containers": [container] if len(container) > 1 else [],
        }
        spec = {key: value for key, value in parts.items() if value}
        own: Mapping[str, Any] = {"spec": spec} if spec else {}
        try:
            merge(own, self.pod_patch)  # what is of the wrong kind is told before any start
        except TypeError as error:
            raise EngineError(f"c.KubernetesEngine.pod_patch cannot be merged: {error}.") from error
        return own, self.pod_patch


def _kinds(entries: Sequence[Mapping[str, Any]]) -> list[Kind]:
    from .backends import Kind

    return [Kind.parse(number, entry) for number, entry in enumerate(entries)]


def _profiles(
    entries: Mapping[str, Mapping[str, Any]], kinds: Sequence[Kind]
) -> Mapping[Size, Profile]:
    from ._profiles import profiles

    return profiles(entries, kinds)
