"""The configuration of the administrator and the user, for programs that read none themselves.

A Jupyter server hands its configuration on to its kernels. nbclient and papermill have none: their
kernels would not run where all the others of the same user do.
"""

from __future__ import annotations

from jupyter_core.application import JupyterApp
from traitlets import default
from traitlets.config import Config

__all__ = ["completed", "from_files"]

_SECTIONS = (
    "GpuShareApp",
    "GpuShareProvisioner",
    "IdlePolicy",
    "KubernetesEngine",
    "LocalEngine",
    "SizePolicy",
)


class _Settings(JupyterApp):
    """Reads the files that a Jupyter server reads."""

    name = "jupyter-gpu-share"

    @default("config_file_name")
    def _config_file_name(self) -> str:
        return "jupyter_server_config"


def from_files() -> Config:
    """What ``jupyter_server_config`` says in Jupyter's folders, user's before machine's."""
    settings = _Settings()
    settings.load_config_file()
    return settings.config


def completed(config: Config) -> Config:
    """A program's configuration, or that of the files where it says nothing of this package."""
    if any(section in config for section in _SECTIONS):
        return config
    found = from_files()
    found.merge(config)
    return found
