"""The settings about shares that nobody uses, with their help."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Dict, Enum, Float, List, Unicode
from traitlets.config import LoggingConfigurable

from ._terms import LONGEST, RULES

__all__ = ["FIGURES", "IdleSettings"]

FIGURES = ("idle_after", "keep_limit", "timeout", "demand_after", "warn_before", "cull_after")


class IdleSettings(LoggingConfigurable):
    """What :class:`~jupyter_gpu_share.idle.IdlePolicy` is configured with."""

    idle_after = Float(
        60.0,
        min=0.0,
        max=LONGEST,
        config=True,
        help="""
        Seconds without a running or waiting cell after which a share is shown as idle. No share
        goes back earlier, whatever the rule. Default 60.

        ::

            c.IdlePolicy.idle_after = 300
        """,
    )
    rule = Enum(
        RULES,
        "adaptive",
        config=True,
        help="""
        When an unused share goes back. ``adaptive``: as soon as the notebook, from the pauses it
        has made, seldom goes on soon. ``fixed``: after ``timeout``. ``demand``: only when
        somebody waits for a share. ``never``. Default ``adaptive``.

        ::

            c.IdlePolicy.rule = "fixed"
        """,
    )
    timeout = Float(
        600.0,
        min=0.0,
        max=LONGEST,
        config=True,
        help="""
        Seconds without use after which a share goes back under the rule ``fixed``. Default 600.

        ::

            c.IdlePolicy.timeout = 300
        """,
    )
    aim = Float(
        0.06,
        config=True,
        help="""
        The adaptive rule's aim: the part of all bursts of work, between 0 and 1, that may have to
        wait until a share is back. A higher one gives shares back sooner. The rule watches its
        waits and keeps to it, whatever the notebooks. Default 0.06, which is 6 in 100.

        ::

            c.IdlePolicy.aim = 0.03
        """,
    )
    usual_size = Unicode(
        "1/4",
        config=True,
        help="""
        The size that most notebooks have. The adaptive rule gives larger shares back sooner and
        smaller ones later, as more and less is gained. Where one is a part of a GPU and the other
        memory or a MIG profile, the GPU is reckoned with 80 GiB. Default ``1/4``.

        ::

            c.IdlePolicy.usual_size = "1"
        """,
    )
    demand_after = Float(
        300.0,
        min=0.0,
        max=LONGEST,
        allow_none=True,
        config=True,
        help="""
        Seconds without use after which a share may go back for somebody who waits, once its user
        was warned; the least recently used first, under every rule but ``never``. None for only
        when its own time is up. Default 300.

        ::

            c.IdlePolicy.demand_after = 120
        """,
    )
    warn_before = Float(
        120.0,
        min=0.0,
        max=LONGEST,
        config=True,
        help="""
        Seconds before a share goes back at which its user is warned, though not before it counts
        as idle. 0 for no warning. Default 120.

        ::

            c.IdlePolicy.warn_before = 30
        """,
    )
    lose_variables = Bool(
        False,
        config=True,
        help="""
        Give shares back even where variables cannot be kept. Default False: such a share stays.

        ::

            c.IdlePolicy.lose_variables = True
        """,
    )
    cull_after = Float(
        None,
        min=0.0,
        max=LONGEST,
        allow_none=True,
        config=True,
        help="""
        Seconds after its share went back at which a kernel is ended, variables and all. None or 0
        for never. Default None.

        ::

            c.IdlePolicy.cull_after = 7 * 24 * 3600
        """,
    )
    rules: List[dict[str, Any]] = List(
        Dict(),
        config=True,
        help="""
        Other terms for some sizes and groups, each a dict of ``size`` and ``group`` (text or a
        list of it; for all where left out) and what differs: ``rule``, ``timeout``, ``aim``,
        ``demand_after``, ``warn_before``, ``cull_after``, ``lose_variables``. The first entry
        that fits holds. One with a ``timeout`` and no ``rule`` has the rule ``fixed``.
        Default empty.

        ::

            c.IdlePolicy.rules = [
                {"group": "teachers", "rule": "never"},
                {"size": ["1", "2x1"], "timeout": 300},
            ]
        """,
    )
    windows: List[dict[str, Any]] = List(
        Dict(),
        config=True,
        help="""
        Other terms at some times, each a dict as in ``rules`` with ``days`` (``mon-fri``,
        ``sat,sun``; every day where left out), ``from`` and ``to`` (``07:30``; the whole day where
        left out). A window past midnight belongs to the day on which it begins. The first one
        that fits and holds comes before ``rules``. Default empty.

        ::

            c.IdlePolicy.windows = [
                {"days": "tue", "from": "10:00", "to": "12:00", "group": "course", "rule": "never"},
                {"from": "22:00", "to": "06:00", "timeout": 0},
            ]
        """,
    )
    time_zone = Unicode(
        "",
        config=True,
        help="""
        Time zone of ``windows``; empty for the machine's. Default empty.

        ::

            c.IdlePolicy.time_zone = "Europe/Berlin"
        """,
    )
    groups: Dict[str, str] = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        config=True,
        help="""
        Groups for ``rules`` and ``windows``: names of users, or of the groups that JupyterHub
        knows, and the group that each is in here. Default empty.

        ::

            c.IdlePolicy.groups = {"ana": "teachers", "physics-2": "course"}
        """,
    )
    keep_limit = Float(
        24 * 3600.0,
        min=0.0,
        max=LONGEST,
        config=True,
        help="""
        Longest time, in seconds from now, for which a user may keep an unused share.
        Default 86400 (a day).

        ::

            c.IdlePolicy.keep_limit = 4 * 3600
        """,
    )
