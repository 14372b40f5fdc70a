"""The broker's page: what an administrator, or a user, sees of the machine in a browser."""

from ._server import serve

__all__ = ["serve"]
