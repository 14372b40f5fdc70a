"""What an idle policy comes to on a recorded trace."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitlets import TraitError
from traitlets.config import Config

from ..errors import GpuShareError
from ..idle import IdlePolicy
from ..idle.replay import (
    Curve,
    Outcome,
    Point,
    Progress,
    Session,
    Shared,
    at,
    curve,
    draw,
    foresight,
    pauses_of,
    percentile,
    read_parts,
    read_trace,
    replay,
    replay_shared,
    usual_of,
)
from ..sentences import spell
from ._plot import check_plot, plot
from ._tables import table

__all__ = ["replay_trace"]

#: Parts of the bursts that wait at which curves are compared.
_WAITING = (0.028, 0.04, 0.06, 0.08, 0.1, 0.116, 0.15)


@dataclass(frozen=True)
class _Policies:
    """Makes policies of the configuration and the command's options."""

    config: Config
    usual: str
    options: dict[str, Any]

    def make(self, **settings: Any) -> IdlePolicy:
        try:
            usual = {} if "usual_size" in self.config.IdlePolicy else {"usual_size": self.usual}
            return IdlePolicy(config=self.config, **{**usual, **self.options, **settings})
        except TraitError as error:
            raise GpuShareError(str(error)) from error


def replay_trace(arguments: argparse.Namespace, config: Config) -> tuple[dict[str, Any], str]:
    """The result as data and as text.

    Raises
    ------
    GpuShareError: a file cannot be read, or the options do not go together.
    """
    if arguments.gpus is not None and (arguments.curve or arguments.plot):
        raise GpuShareError("Curves are of sessions by themselves; leave out --gpus")
    if arguments.plot:
        check_plot(arguments.plot)
    with _interruptible():
        sessions = read_trace(Path(arguments.trace))
        if arguments.sizes:
            sessions = draw(sessions, read_parts(Path(arguments.sizes)), arguments.seed)
        names = ("rule", "timeout", "aim", "demand_after")
        options = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
        policies = _Policies(config, str(usual_of(sessions)), options)
        policy = policies.make()
        data: dict[str, Any] = {
            "sessions": len(sessions),
            "bursts": sum(map(len, sessions)),
            "rule": policy.rule,
        }
        if arguments.gpus is not None:
            return _on_gpus(arguments, sessions, policies, data)
        with _progress("Replaying") as progress:
            (outcome,) = replay(sessions, [policy], progress)
        data |= _outcome(outcome, [arguments.wake] * outcome.waiting)
        text = _outcome_text(data, policy)
        if arguments.curve or arguments.plot:
            with _progress("Drawing the curves") as progress:
                found = curve(sessions, policies.make, seed=arguments.seed, progress=progress)
            data["curve"] = _curve(found, sessions)
            text += "\n\n" + _curve_text(data["curve"])
            if arguments.plot:
                pauses = pauses_of(sessions)
                limit = [(part / 100, foresight(pauses, part / 100)) for part in range(1, 26, 2)]
                plot(arguments.plot, found, limit, outcome, policy.rule)
        return data, text


# -- sessions by themselves ------------------------------------------------------------------------


def _outcome(outcome: Outcome, waits: Sequence[float]) -> dict[str, Any]:
    return {
        "idle_gpu_hours": round(outcome.idle / 3600, 2),
        "returned": round(outcome.part_returned, 5),
        "waiting": round(outcome.part_waiting, 5),
        "added_wait": {"median": percentile(waits, 50), "p95": percentile(waits, 95)},
    }


def _outcome_text(data: dict[str, Any], policy: IdlePolicy) -> str:
    wait = data["added_wait"]
    rows = [
        ["trace", f"{data['sessions']:,} sessions, {data['bursts']:,} bursts of GPU use"],
        ["rule", _rule(policy)],
        ["idle GPU-hours", f"{data['idle_gpu_hours']:,.0f}"],
        ["of these returned", _percent(data["returned"])],
        ["bursts that had to wait for a wake", _percent(data["waiting"])],
        ["added wait, median", _seconds(wait["median"])],
        ["added wait, 95th percentile", _seconds(wait["p95"])],
    ]
    return _pairs(rows)


def _curve(found: Curve, sessions: Sequence[Session]) -> list[dict[str, Any]]:
    pauses = pauses_of(sessions)
    return [
        {
            "waiting": waiting,
            "fixed": _point(at(found.fixed, waiting), "timeout"),
            "adaptive": _point(at(found.shipped, waiting), "aim"),
            "cross_validated": _point(at(found.judged, waiting), "aim"),
            "longest_first": round(foresight(pauses, waiting, by_gpus=False), 5),
            "limit": round(foresight(pauses, waiting), 5),
        }
        for waiting in _WAITING
    ]


def _point(point: Point | None, setting: str) -> dict[str, float] | None:
    if point is None:
        return None
    return {"returned": round(point.returned, 5), setting: round(point.setting, 4)}


def _curve_text(rows: Sequence[dict[str, Any]]) -> str:
    def cell(found: dict[str, float] | None) -> str:
        if found is None:
            return "-"
        setting = spell(found["timeout"]) if "timeout" in found else f"aim {found['aim']:.3f}"
        return f"{_percent(found['returned'])} ({setting})"

    header = ["WAITING", "FIXED", "ADAPTIVE", "CROSS-VALIDATED", "LONGEST FIRST", "LIMIT"]
    lines = [
        [
            _percent(row["waiting"]),
            *(cell(row[name]) for name in ("fixed", "adaptive", "cross_validated")),
            _percent(row["longest_first"]),
            _percent(row["limit"]),
        ]
        for row in rows
    ]
    notes = [
        "Idle GPU-hours returned where so many bursts have to wait.",
        "CROSS-VALIDATED: adaptive, learnt on half of the sessions and judged on the other.",
        "With perfect foresight: LONGEST FIRST takes the longest pauses, LIMIT those with the",
        "most GPU-hours, which is the most that can be had.",
    ]
    return "\n".join([table(header, lines), "", *notes])


# -- on so many GPUs -------------------------------------------------------------------------------


def _on_gpus(
    arguments: argparse.Namespace,
    sessions: Sequence[Session],
    policies: _Policies,
    data: dict[str, Any],
) -> tuple[dict[str, Any], str]:
    policy = policies.make()
    count: int = arguments.gpus
    with _progress("Replaying") as progress:
        found = replay_shared(sessions, policy, count, wake=arguments.wake, progress=progress)
    with _progress("Replaying with every share reserved") as progress:
        never = policies.make(rule="never", windows=[], rules=[])
        reserved = replay_shared(sessions, never, count, wake=arguments.wake, progress=progress)
    data |= _outcome(found, found.wakes) | {"shared": _shared(found, reserved, count)}
    shared = data["shared"]
    rows = [
        ["", ""],
        ["GPUs", f"{count:,}"],
        ["shares served from what was returned", f"{shared['served']:,}"],
        ["releases because somebody waited", f"{shared['demanded']:,}"],
        ["wait for a first share, median", _seconds(shared["first_wait"]["median"])],
        ["wait for a first share, 95th percentile", _seconds(shared["first_wait"]["p95"])],
        ["the same where all is reserved, median", _seconds(shared["first_reserved"]["median"])],
        ["the same, 95th percentile", _seconds(shared["first_reserved"]["p95"])],
        ["owners waited for their share, in all", _hours(shared["owners_lost_hours"])],
        ["others waited less for their first one", _hours(shared["others_gained_hours"])],
    ]
    return data, _outcome_text(data, policy) + "\n" + _pairs(rows)


def _shared(found: Shared, reserved: Shared, count: int) -> dict[str, Any]:
    first, before = found.starts, reserved.starts
    return {
        "gpus": count,
        "served": found.served,
        "demanded": found.demanded,
        "first_wait": {"median": percentile(first, 50), "p95": percentile(first, 95)},
        "first_reserved": {"median": percentile(before, 50), "p95": percentile(before, 95)},
        "owners_lost_hours": round(sum(found.wakes) / 3600, 2),
        "others_gained_hours": round((sum(before) - sum(first)) / 3600, 2),
    }


# -- words -----------------------------------------------------------------------------------------


def _rule(policy: IdlePolicy) -> str:
    if policy.rule == "fixed":
        return f"fixed, after {spell(policy.timeout)}"
    if policy.rule == "adaptive":
        return f"adaptive, aim {_percent(policy.aim)}"
    if policy.rule == "demand" and policy.demand_after is not None:
        return f"demand, after {spell(policy.demand_after)}"
    return policy.rule


def _pairs(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"{name:<42}{value}".rstrip() for name, value in rows)


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return spell(seconds) if seconds >= 60 else f"{seconds:.1f} s"


@contextmanager
def _progress(text: str) -> Iterator[Progress]:
    """Say how far it is, on a terminal only, and take the line away at the end."""
    shown = sys.stderr.isatty()
    last = -1

    def tell(part: float) -> None:
        nonlocal last
        percent = int(100 * part)
        if shown and percent != last:
            last = percent
            print(f"{text} … {percent} %", end="\r", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print("\x1b[2K", end="\r", file=sys.stderr, flush=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the work at once: asyncio's own handler waits for its loop to be free."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
