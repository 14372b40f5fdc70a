"""Any idle policy over a recorded trace, with the objects that a running server uses."""

from __future__ import annotations

from ._alone import Outcome, Progress, pauses_of, percentile, replay
from ._curve import AIMS, Curve, Point, at, cross_validated, curve, foresight, points
from ._gpus import Gpus
from ._learn import learn, learnt_module, usual_of
from ._shared import Shared, replay_shared
from ._trace import Burst, Session, TraceError, draw, read_parts, read_trace

__all__ = [
    "AIMS",
    "Burst",
    "Curve",
    "Gpus",
    "Outcome",
    "Point",
    "Progress",
    "Session",
    "Shared",
    "TraceError",
    "at",
    "cross_validated",
    "curve",
    "draw",
    "foresight",
    "learn",
    "learnt_module",
    "pauses_of",
    "percentile",
    "points",
    "read_parts",
    "read_trace",
    "replay",
    "replay_shared",
    "usual_of",
]
