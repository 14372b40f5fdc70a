"""Idleness: when a share counts as unused, and when it goes back."""

from __future__ import annotations

from ._calibration import Calibration
from ._history import History
from ._policy import IdlePolicy
from ._situation import Plan, Situation

__all__ = ["Calibration", "History", "IdlePolicy", "Plan", "Situation"]
