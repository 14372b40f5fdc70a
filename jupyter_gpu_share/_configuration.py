"""The configuration of the administrator and the user, for programs that read none themselves.

A Jupyter server hands its configuration on to its kernels. nbclient and papermill have none: their
kernels would not run where all the others of the same user do.
"""

from __future__ import annotations

from jupyter_core.application import JupyterApp
from traitlets import default
from traitlets.config import Config

from ._text import one_line
from .errors import EngineError

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
    """What ``jupyter_server_config`` says in Jupyter's folders, user's before machine's.

    Raises
    ------
    EngineError: a file cannot be read. Its limits would be missing without a word.
    """
    settings = _Settings(raise_config_file_errors=True)
    try:
        settings.load_config_file()
    except Exception as error:  # a file of Python may raise anything
        raise EngineError(
            "The configuration jupyter_server_config cannot be read: "
            f"{type(error).__name__}: {one_line(str(error))}. Correct that file; `jupyter --paths` "
            "names the folders that it may be in."
        ) from error
    return settings.config


def completed(config: Config) -> Config:
    """A program's configuration, or that of the files where it says nothing of this package."""
    if any(section in config for section in _SECTIONS):
        return config
    found = from_files()
    found.merge(config)
    return found
