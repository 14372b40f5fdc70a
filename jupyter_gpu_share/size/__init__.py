"""Sizes: what a user asks for, and the administrator's rules about it."""

from __future__ import annotations

from ._grammar import Size, format_bytes, parse_bytes
from ._policy import Offer, SizePolicy

__all__ = ["Offer", "Size", "SizePolicy", "format_bytes", "parse_bytes"]
