"""Sizes: what a user asks for, and the administrator's rules about it."""

from __future__ import annotations

from ._grammar import Size, format_bytes, parse_bytes

__all__ = ["Size", "format_bytes", "parse_bytes"]
