"""The grammar of sizes, in exact arithmetic.

::

    size    = [ count "x" ] one | "0"
    one     = fraction | memory | profile
    fraction= "1/4" | "0.25" | "25%" | "1"        of one GPU's memory
    memory  = "10GiB" | "512MiB" | "10GB" | ...   bytes of memory on one GPU
    profile = "mig-1g.10gb"                       a MIG instance of that profile

``2x1/2`` is a half of each of two GPUs. ``0`` is no GPU. Fractions are
:class:`fractions.Fraction`, memory is an integer of bytes; no float is involved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..errors import MoreThanOneGpu, SizeError
from ..sentences import format_bytes, say

_UNITS = {
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_MAX_TEXT = 64
_PLAIN = re.compile(r"[\w./%+-]+…?", re.ASCII)
_COUNT = re.compile(r"(\d+)\s*x\s*(.+)", re.ASCII)
_PROFILE = re.compile(r"mig-((?:\d+c\.)?\d+g\.\d+gb(?:[+-][a-z0-9.]+)*)", re.ASCII)
_RATIO = re.compile(r"([+-]?\d+)\s*/\s*([+-]?\d+)", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)
_MEMORY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))\s*([kmgt]i?b|b|[kmgt]i?)", re.ASCII)


@dataclass(frozen=True)
class Size:
    """What a user asks for. Exactly one of the three measures is set, or none for size ``0``.

    Attributes
    ----------
    fraction: of the memory of one GPU, above 0 and at most 1.
    memory: bytes of memory on one GPU, above 0.
    profile: name of a MIG profile without the prefix, such as ``1g.10gb``.
    count: number of different GPUs (or MIG instances), each holding the measure; 0 for size ``0``.
    """

    fraction: Fraction | None = None
    memory: int | None = None
    profile: str | None = None
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read a size.

        Raises
        ------
        SizeError: the text is not a size; the message names the text and what can be written.
        """
        shown = shorten(text)
        if len(text) > _MAX_TEXT:
            raise SizeError(say("size-too-long", text=shown))
        word = text.strip().lower()
        count = 1
        if match := _COUNT.fullmatch(word):
            count, word = int(match[1]), match[2].strip()
            if count < 1:
                raise SizeError(say("size-of-no-gpu", text=shown))
            if count > 64:
                raise SizeError(say("size-of-many-gpus", text=shown, count=count))
        one = _parse_one(word, shown)
        if one.is_none and count != 1:
            raise SizeError(say("size-of-no-gpu-often", text=shown))
        return one if one.is_none else cls(one.fraction, one.memory, one.profile, count)

    @property
    def is_none(self) -> bool:
        """True for size ``0``: a kernel without a GPU."""
        return self.count == 0

    @property
    def is_whole(self) -> bool:
        """True where each GPU is asked for as a whole."""
        return self.fraction == 1

    def bytes_of(self, capacity: int) -> int:
        """Bytes that this size takes of one GPU with ``capacity`` bytes, rounded down.

        Rounding down keeps three thirds within one GPU. A MIG instance is always taken whole.
        """
        if self.is_none:
            return 0
        if self.memory is not None:
            return self.memory
        if self.fraction is not None:
            return int(capacity * self.fraction)
        return capacity

    def __str__(self) -> str:
        """The canonical text; ``Size.parse(str(size)) == size``."""
        if self.is_none:
            return "0"
        if self.fraction is not None:
            one = str(self.fraction)
        elif self.memory is not None:
            one = format_bytes(self.memory, exact=True)
        else:
            one = f"mig-{self.profile}"
        return one if self.count == 1 else f"{self.count}x{one}"


def parse_bytes(text: str) -> int:
    """Read an amount of memory such as ``10GiB`` or ``512MB`` into bytes.

    Raises
    ------
    SizeError: not an amount of memory, negative, or not a whole number of bytes.
    """
    shown = shorten(text)
    match = _MEMORY.fullmatch(text.strip().lower())
    if match is None or len(text) > _MAX_TEXT:
        raise SizeError(f"{shown} is not an amount of memory; write it like 10GiB or 512MiB")
    return _bytes(match, shown)


def shorten(text: str, limit: int = 40) -> str:
    """A user's text as it may stand in one line of an error."""
    line = "".join(ch if ch.isprintable() else "?" for ch in text.strip())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return line if _PLAIN.fullmatch(line) else repr(line)


def _parse_one(word: str, shown: str) -> Size:
    if match := _PROFILE.fullmatch(word):
        return Size(profile=match[1])
    if match := _MEMORY.fullmatch(word):
        return Size(memory=_bytes(match, shown))
    if match := _RATIO.fullmatch(word):
        if int(match[2]) == 0:
            raise SizeError(say("size-by-zero", text=shown))
        return _of_fraction(Fraction(int(match[1]), int(match[2])), shown)
    if word.endswith("%") and _DECIMAL.fullmatch(word[:-1].strip()):
        return _of_fraction(Fraction(word[:-1].strip()) / 100, shown)
    if _DECIMAL.fullmatch(word):
        return _of_fraction(Fraction(word), shown)
    raise SizeError(say("not-a-size", text=shown))


def _of_fraction(value: Fraction, shown: str) -> Size:
    if value < 0:
        raise SizeError(say("size-negative", text=shown))
    if value == 0:
        return Size(count=0)
    if value > 1:
        if value.denominator == 1:
            whole = {"count": int(value), "size": f"{value}x1"}
            raise MoreThanOneGpu(say("size-above-one-whole", text=shown, **whole))
        raise MoreThanOneGpu(say("size-above-one", text=shown))
    return Size(fraction=value)


def _bytes(match: re.Match[str], shown: str) -> int:
    number, unit = match[1], match[2]
    exact = Fraction(number) * _UNITS[unit if unit.endswith("b") else unit + "b"]
    if exact < 0:
        raise SizeError(say("size-negative", text=shown))
    if exact == 0:
        raise SizeError(say("size-of-no-memory", text=shown))
    if exact.denominator != 1:
        raise SizeError(say("size-not-in-bytes", text=shown))
    return int(exact)
