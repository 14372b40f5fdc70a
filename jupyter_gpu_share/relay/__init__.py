"""The relay: the endpoint that the clients of a kernel talk to for its whole life."""

from __future__ import annotations

from ._activity import Activity
from ._events import RelayEvents
from ._held import Bound, HeldLimits
from ._question import Answer
from ._relay import Relay
from ._rules import HoldMode

__all__ = ["Activity", "Answer", "Bound", "HeldLimits", "HoldMode", "Relay", "RelayEvents"]
