"""The relay: the endpoint that the clients of a kernel talk to for its whole life."""

from __future__ import annotations

from ._activity import Activity
from ._held import HeldLimits, HoldMode
from ._question import Answer
from ._relay import Relay, RelayEvents

__all__ = ["Activity", "Answer", "HeldLimits", "HoldMode", "Relay", "RelayEvents"]
