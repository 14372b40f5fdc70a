"""The broker's page: what an administrator, or a user, sees of all shares in a browser."""

from ._asking import Board, MachineBoard, Order, Seen
from ._handler import PageHandler, headers
from ._html import STYLE, Frame, View
from ._listening import listen, run
from ._server import serve

__all__ = [
    "STYLE",
    "Board",
    "Frame",
    "MachineBoard",
    "Order",
    "PageHandler",
    "Seen",
    "View",
    "headers",
    "listen",
    "run",
    "serve",
]
