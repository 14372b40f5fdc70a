"""What has changed among claims, told to whom it concerns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engines.local._contents import Claim
from ..engines.local._wire import claim_to_json
from .events import Events
from .names import kernel_of, uid_of

__all__ = ["News"]


class News:
    """Compares claims with those that were last told of, and publishes what is new."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._told: dict[str, dict[str, Any]] = {}
        #: The claims that these were made of. One that has not changed is the same object.
        self._known: Mapping[str, Claim] = {}

    def tell(self, claims: Sequence[Claim]) -> None:
        """Publish what is new since this was last called.

        Everybody hears that somebody has begun to wait, and each user of their own claims.
        """
        before, self._known = self._known, {claim.kernel_id: claim for claim in claims}
        now = {
            name: self._told[name]
            if before.get(name) is claim
            else claim_to_json(claim, kernel_of(claim))
            for name, claim in self._known.items()
        }
        waited = {key for key, row in self._told.items() if row["state"] == "waiting"}
        if any(row["state"] == "waiting" and key not in waited for key, row in now.items()):
            self._events.publish(None, "wanted", {})
        for key, row in now.items():
            if self._told.get(key) is not row and self._told.get(key) != row:
                self._events.publish(uid_of(key), "share", row)
        for key in self._told.keys() - now.keys():
            _, _, kernel_id = key.partition("/")
            self._events.publish(uid_of(key), "ended", {"kernel_id": kernel_id})
        self._told = now
