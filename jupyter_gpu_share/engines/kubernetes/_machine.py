"""What the broker of a cluster tells of the GPUs, of who asks, and of how kernels run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from ..base import Capacity
from ..user_limits import UserLimit, limits_from_json
from ._row import capacity_of

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """The cluster, as the broker gives it to one server.

    Attributes
    ----------
    version: of the broker.
    paused: nobody gets a share now.
    memory_to_come: bytes of each kind of GPU that is not there and may come.
    user: as the Hub has proven it; ``server``: its name, empty for the default one, None where
        the token is of no server.
    python, renewal, encrypt, allowed_environment: how kernels run in their pods.
    image, images: of kernels, and by the names of their kernelspecs.
    limits: of the user; none of a broker of an earlier version.
    """

    version: str
    backend: str | None
    style: str | None
    place: str
    paused: bool
    gpus: tuple[Capacity, ...]
    memory_to_come: tuple[int, ...]
    user: str
    server: str | None
    administrator: bool
    python: str
    renewal: float
    encrypt: bool
    allowed_environment: tuple[str, ...]
    image: str
    images: Mapping[str, str]
    limits: tuple[UserLimit, ...] = ()

    @classmethod
    def read(cls, data: Any) -> Machine:
        """What ``GET /v1/machine`` answers.

        Raises
        ------
        EngineError: it makes no sense, or it is no broker of a cluster.
        """
        try:
            if data.get("engine") != "kubernetes":
                raise EngineError(
                    "What JUPYTER_GPU_SHARE_BROKER names is no broker of a cluster. The "
                    "administrator corrects the address."
                )
            kernels, you = data["kernels"], data["you"]
            server = you.get("server")
            return cls(
                version=str(data["version"]),
                backend=data.get("backend") or None,
                style=data.get("style") or None,
                place=str(data.get("place") or ""),
                paused=data.get("paused") is True,
                gpus=tuple(capacity_of(row) for row in data["gpus"]),
                memory_to_come=tuple(int(size) for size in data.get("memory_to_come") or ()),
                user=str(you["user"]),
                server=None if server is None else str(server),
                administrator=you.get("administrator") is True,
                python=str(kernels.get("python") or "python3"),
                renewal=_renewal(kernels.get("renewal")),
                encrypt=kernels.get("encrypt") is not False,
                allowed_environment=tuple(map(str, kernels.get("allowed_environment") or ())),
                image=str(kernels.get("image") or ""),
                images={str(k): str(v) for k, v in (kernels.get("images") or {}).items()},
                limits=limits_from_json(you.get("limits")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                "What the broker of this cluster tells of itself makes no sense; its version may "
                "be another. The administrator upgrades it, or this server's image."
            ) from error


def _renewal(seconds: Any) -> float:
    found = float(seconds)
    if not 0.05 <= found <= 600:
        raise ValueError("no time between two signs of life")
    return found
