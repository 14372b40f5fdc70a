"""Idleness: when a share counts as unused."""

from __future__ import annotations

from ._policy import IdlePolicy

__all__ = ["IdlePolicy"]
