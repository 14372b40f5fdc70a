"""The broker's page as a service of a JupyterHub on the same machine."""

from ._configuration import ADMINISTRATOR, share_gpus
from ._service import Service, serve

__all__ = ["ADMINISTRATOR", "Service", "serve", "share_gpus"]
