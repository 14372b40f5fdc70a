"""An authorizer that refuses GPU shares and nothing else."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.authorizer import Authorizer


class RefusesGpuShare(Authorizer):
    """For tests."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Everything but ``gpu_share``."""
        return resource != "gpu_share"
