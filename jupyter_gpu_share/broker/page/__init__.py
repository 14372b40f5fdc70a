"""The broker's page: what an administrator, or a user, sees of the machine in a browser."""

from ._asking import Order, Seen
from ._handler import PageHandler, headers
from ._html import STYLE, Frame, View
from ._listening import listen, run
from ._server import serve

__all__ = [
    "STYLE",
    "Frame",
    "Order",
    "PageHandler",
    "Seen",
    "View",
    "headers",
    "listen",
    "run",
    "serve",
]
