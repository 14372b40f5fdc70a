"""The broker's page as a service of a JupyterHub on the same machine."""

from ._configuration import ADMINISTRATOR, add_page
from ._service import Service, serve

__all__ = ["ADMINISTRATOR", "Service", "add_page", "serve"]
