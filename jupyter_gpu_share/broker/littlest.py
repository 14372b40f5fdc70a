"""Plugin of The Littlest JupyterHub: the package and shares for all users, and the page.

TLJH loads it by the entry point ``tljh`` in the Hub's environment; ``pluggy`` is there with it.
"""

from __future__ import annotations

from typing import Any

from pluggy import HookimplMarker

from .hub import LITTLEST, share_gpus

__all__ = ["tljh_custom_jupyterhub_config", "tljh_extra_user_pip_packages"]

_hook = HookimplMarker("tljh")


@_hook
def tljh_extra_user_pip_packages() -> list[str]:
    """Called by TLJH's installer: what users' environment has beside its own packages."""
    return ["jupyter-gpu-share"]


@_hook
def tljh_custom_jupyterhub_config(c: Any) -> None:
    """Called by TLJH when the Hub starts. Its administrators are those of the page."""
    share_gpus(c, administrators=_users(c.Authenticator.admin_users), account=LITTLEST)


def _users(set_there: Any) -> list[str]:
    """Names in a setting; none where nobody has set it."""
    return sorted(set_there) if isinstance(set_there, set | list) else []
