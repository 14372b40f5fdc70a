"""The broker's page as a service of a JupyterHub on the same machine."""

from ._accounts import LITTLEST
from ._configuration import ADMINISTRATOR, share_gpus, share_gpus_of_cluster
from ._hub import Hub, access_scope
from ._service import Service, serve

__all__ = [
    "ADMINISTRATOR",
    "LITTLEST",
    "Hub",
    "Service",
    "access_scope",
    "serve",
    "share_gpus",
    "share_gpus_of_cluster",
]
