"""Sizes: what a user asks for, and the administrator's rules about it."""

from __future__ import annotations

from ..sentences import format_bytes
from ._choices import SizeChoices
from ._grammar import Size, parse_bytes
from ._kernelspec import size_in_kernelspec
from ._notebook import size_in_notebook
from ._policy import Offer, SizePolicy
from ._requests import SIZE_VARIABLE, Request, RequestStore

__all__ = [
    "SIZE_VARIABLE",
    "Offer",
    "Request",
    "RequestStore",
    "Size",
    "SizeChoices",
    "SizePolicy",
    "format_bytes",
    "parse_bytes",
    "size_in_kernelspec",
    "size_in_notebook",
]
