"""What a relay tells its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._activity import Activity

__all__ = ["RelayEvents"]


class RelayEvents:
    """What a relay tells its owner. Called on the relay's thread; must not block."""

    def wanted(self, epoch: int) -> None:
        """A cell or a widget asks for a kernel, and is held from now on.

        Called for each of them, whatever the mode. ``epoch`` is how many times
        :meth:`Relay.discard` was carried out before: who discards knows by it whether this wish
        was among what was dropped.
        """

    def interrupted(self, header: Mapping[str, Any]) -> None:
        """A client interrupts while clients do not reach a kernel.

        ``header`` is that of its message: who has started another process since knows by its
        ``session`` and ``date`` which one was meant.
        """

    def shutdown(self, restart: bool, header: Mapping[str, Any]) -> None:
        """A client asks the kernel to end while clients do not reach one.

        A kernel that is only looked at (``STARTING``) was asked, too.
        """

    def activity(self, activity: Activity) -> None:
        """Cells were sent, or are done: the counts differ from those told last."""
