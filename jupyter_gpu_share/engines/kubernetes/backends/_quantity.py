"""Kubernetes quantities, in exact arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

__all__ = ["exact_quantity", "format_quantity", "parse_quantity"]

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i)|([eE][+-]?\d+)|([numkMGTPE]?))", re.ASCII
)


def exact_quantity(text: str | int) -> Fraction:
    """A quantity such as ``80Gi``, ``1e9`` or ``999m`` as a number.

    Raises
    ------
    ValueError: it is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number = Fraction(match[1])
    if match[2]:
        number *= _BINARY[match[2]]
    elif match[3]:
        number *= Fraction(10) ** int(match[3][1:])
    else:
        number *= Fraction(10) ** _DECIMAL[match[4] or ""]
    return number


@lru_cache(maxsize=4096)  # thousands of claims of a cluster say the same few amounts
def parse_quantity(text: str | int) -> int:
    """A quantity as an integer, rounded up as Kubernetes does.

    Raises
    ------
    ValueError: it is no quantity.
    """
    return ceil(exact_quantity(text))


def format_quantity(amount: int) -> str:
    """Bytes as a quantity, with the largest binary unit that is exact."""
    for unit, size in reversed(_BINARY.items()):
        if amount and amount % size == 0:
            return f"{amount // size}{unit}"
    return str(amount)
