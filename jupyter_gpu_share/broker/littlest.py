"""Plugin of The Littlest JupyterHub: the package for all users, and shares for all their programs.

TLJH loads it by the entry point ``tljh`` in the Hub's environment; ``pluggy`` is there with it.
"""

from __future__ import annotations

from typing import Any

from pluggy import HookimplMarker

__all__ = ["tljh_custom_jupyterhub_config", "tljh_extra_user_pip_packages"]

_hook = HookimplMarker("tljh")


@_hook
def tljh_extra_user_pip_packages() -> list[str]:
    """Called by TLJH's installer: what users' environment has beside its own packages."""
    return ["jupyter-gpu-share"]


@_hook
def tljh_custom_jupyterhub_config(c: Any) -> None:
    """Called by TLJH when the Hub starts. Papermill and consoles in terminals have shares, too."""
    c.Spawner.environment.update({"JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner"})
