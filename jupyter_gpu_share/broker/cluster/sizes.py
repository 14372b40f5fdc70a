"""Which sizes users of a cluster may have at all, whatever their own servers are configured to."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import EngineError, SizeNotAllowed
from ...sentences import say, words_of
from ...size import Size, SizePolicy

__all__ = ["Sizes"]


class Sizes:
    """The administrator's bounds on each kernel. What several kernels have is for the limits.

    Raises
    ------
    EngineError: a setting that means nothing here.
    """

    def __init__(self, policy: SizePolicy) -> None:
        if policy.max_total:
            raise EngineError(
                "c.SizePolicy.max_total is about one server. Say in c.Broker.limits what users "
                "may have over all of their servers."
            )
        self._policy = policy

    def why_not(self, size: Size, memories: Collection[int]) -> str | None:
        """Why nobody may have the size, a sentence; None where they may.

        Parameters
        ----------
        memories: bytes of each kind of GPU of the cluster. Which it will be is not known yet, so
            bounds hold on every one.
        """
        try:
            self._policy.check(str(size))
            if not self._policy.needs_capacity(size):
                return None
            for memory in memories:
                self._policy.check_on(size, memory)
        except SizeNotAllowed as error:
            return words_of(error)
        if not memories:
            return say("memory-not-known", size=size)
        return None
