"""What one process of a user's server has to talk to the broker of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jupyter_gpu_share.broker.client import BrokerRefused
from jupyter_gpu_share.broker.http_client import HttpBroker, share_path
from jupyter_gpu_share.engines.kubernetes._followed import Followed
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys
from jupyter_gpu_share.engines.kubernetes._remote_objects import RemoteObjects
from jupyter_gpu_share.engines.kubernetes._row import Row
from jupyter_gpu_share.size import Size

KEY = b"0123456789abcdef0123456789abcdef"


@dataclass
class Process:
    """What one process of alice's server has."""

    http: HttpBroker
    followed: Followed
    unknown: list[Row]

    def kernel(self, kernel_id: str = "k", size: str = "1/2", **plan: Any) -> RemoteObjects:
        """The objects of a kernel, with keys."""
        keys = Keys.new(KEY, "hmac-sha256", encrypt=True)
        made = KernelPlan(kernel_id, "python3", Size.parse(size), keys=keys, **plan)
        return RemoteObjects(self.http, self.followed, made)

    async def end_unknown(self) -> None:
        """End the kernels of this process of which nobody here knows."""
        for row in self.unknown:
            try:
                await self.http.ask("DELETE", share_path(row.kernel_id, f"?attempt={row.attempt}"))
            except BrokerRefused:
                continue
