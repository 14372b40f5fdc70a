"""The administrator's rules about shares that nobody uses."""

from __future__ import annotations

from datetime import timedelta

from traitlets import Float
from traitlets.config import LoggingConfigurable


class IdlePolicy(LoggingConfigurable):
    """When a share counts as idle, and for how long a user may keep it."""

    idle_after = Float(
        60.0,
        min=0.0,
        config=True,
        help="""
        Seconds without a running or waiting cell after which a share is shown as idle. Default 60.

        ::

            c.IdlePolicy.idle_after = 300
        """,
    )
    keep_limit = Float(
        24 * 3600.0,
        min=0.0,
        config=True,
        help="""
        Longest time, in seconds from now, for which a user may keep an unused share.
        Default 86400 (a day).

        ::

            c.IdlePolicy.keep_limit = 4 * 3600
        """,
    )

    @property
    def longest_keep(self) -> timedelta:
        """``keep_limit`` as a span of time."""
        return timedelta(seconds=self.keep_limit)
