"""What the administrator sets of a broker, whether it is a machine's or a cluster's."""

from __future__ import annotations

import math
from typing import Any

from traitlets import Bool, CaselessStrEnum, Float, Integer, List, TraitError, Unicode
from traitlets.config import LoggingConfigurable

from ..errors import EngineError
from .limits import Limits, LimitsError

__all__ = ["Broker", "Seconds"]

#: A year; what has no end is told otherwise.
_LONGEST = 366 * 86400.0


class Seconds(Float[Any, Any]):
    """A time in seconds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, max=_LONGEST, **options)

    def validate(self, obj: Any, value: Any) -> Any:
        """Called by traitlets. What is no number is neither too small nor too large to it."""
        if isinstance(value, float) and math.isnan(value):
            raise TraitError(f"{type(obj).__name__}.{self.name} is a number of seconds, not nan.")
        return super().validate(obj, value)


class Broker(LoggingConfigurable):
    """What brokers of machines and of clusters have in common.

    Each of them takes ``c.Broker`` for all that it can be told.
    """

    home = CaselessStrEnum(
        ["auto", "machine", "cluster"],
        default_value="auto",
        config=True,
        help="""
        Whose shares the broker owns: those of this ``machine``, or those of a Kubernetes
        ``cluster`` as a service of its JupyterHub. Default ``auto``: of the cluster where the
        broker runs in a pod and has a token of a Hub, else of the machine.

        ::

            c.Broker.home = "cluster"
        """,
    )
    folder = Unicode(
        "/var/lib/jupyter-gpu-share-broker",
        config=True,
        help="""
        Folder of the record of who holds what, and of who held what; on a local disk, in a
        cluster on a volume. It is made open to the broker's user only.

        ::

            c.Broker.folder = "/var/lib/jupyter-gpu-share-broker"
        """,
    )
    claims_per_user = Integer(
        200,
        min=1,
        config=True,
        help="""
        The most kernels of one user that hold or wait for a share. Default 200.

        ::

            c.Broker.claims_per_user = 50
        """,
    )
    limits: List[Any] = List(
        config=True,
        help="""
        What users, groups and all together may hold or wait for, as entries with a ``resource``
        (``gpus``, ``memory_bytes``, ``kernels``, or ``gpu_hours`` held in a ``window`` of days), a
        ``limit`` and a ``scope``: ``{"user": […]}``
        for each of these users (``*``: everybody), ``{"members_of": […]}`` for each user who is in
        one of these groups, ``{"group": […]}`` for all members of each of these groups together, or
        ``"total"``. Default: none.

        ::

            c.Broker.limits = [
                {"resource": "gpus", "limit": 1, "scope": {"user": ["*"]}},
                {"resource": "memory_bytes", "limit": "320GiB", "scope": {"group": ["course"]}},
                {"resource": "gpu_hours", "limit": 40, "window": 7, "scope": {"user": ["*"]}},
            ]
        """,
    )
    limits_joined = CaselessStrEnum(
        ["max", "min", "sum"],
        default_value="max",
        config=True,
        help="""
        Which limit counts where several are about the same resource and the same user or group.
        Default ``max``, the largest.

        ::

            c.Broker.limits_joined = "min"
        """,
    )

    patience = Seconds(
        600.0,
        min=0.0,
        config=True,
        help="""
        Seconds for which others may pass a kernel that waits for more than is free; after that
        room is held for it. Default 600.

        ::

            c.Broker.patience = 1800
        """,
    )

    metrics_by_user = Bool(
        False,
        config=True,
        help="""
        Have metrics name the users who held most. On a port for Prometheus that takes
        ``metrics_token_file``, as others may reach it, too. Default False.

        ::

            c.Broker.metrics_by_user = True
        """,
    )
    metrics_token_file = Unicode(
        config=True,
        help="""
        File with a token that Prometheus has to send for metrics, closed to everybody else.
        Default: none; whoever reaches the port gets them then.

        ::

            c.Broker.metrics_token_file = "/etc/jupyter-gpu-share/metrics-token"
        """,
    )

    def read_limits(self) -> Limits | None:
        """The limits; None where there are none.

        Raises
        ------
        EngineError: they cannot be understood.
        """
        if not self.limits:
            return None
        try:
            return Limits(self.limits, self.limits_joined)
        except LimitsError as error:
            raise EngineError(f"c.Broker.limits cannot be used: {error}") from error
