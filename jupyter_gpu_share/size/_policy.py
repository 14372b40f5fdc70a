"""The administrator's rules about sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..errors import MoreThanOneGpu, SizeError, SizeNotAllowed
from ..sentences import paragraph, say, sentences_of, words_of
from ._grammar import Size

_PURPOSES = ("", "explore", "train", "serve")
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "size": (str, int),
    "name": str,
    "description": str,
    "purpose": str,
    "default": bool,
}
_NOMINAL = re.compile(r"\.(\d+)gb")


@dataclass(frozen=True)
class Offer:
    """A size that the administrator offers, with words for people."""

    size: Size
    name: str
    description: str = ""
    purpose: str = ""
    default: bool = False

    def to_json(self) -> dict[str, Any]:
        """The size as canonical text."""
        return {
            "size": str(self.size),
            "name": self.name,
            "description": self.description,
            "description_sentences": sentences_of(self.description),
            "purpose": self.purpose,
            "default": self.default,
        }


class SizePolicy(LoggingConfigurable):
    """Which sizes are offered, and which are allowed. Every size asked for is checked by it."""

    offered: List[dict[str, Any]] = List(
        Dict(),
        default_value=[
            {
                "size": "1/4",
                "name": "Quarter",
                "description": say("to-explore"),
                "purpose": "explore",
                "default": True,
            },
            {
                "size": "1/2",
                "name": "Half",
                "description": say("to-train-small"),
                "purpose": "train",
            },
            {
                "size": "1",
                "name": "Whole GPU",
                "description": say("to-train"),
                "purpose": "train",
            },
            {"size": "0", "name": "No GPU", "description": say("to-do-without")},
        ],
        config=True,
        help="""
        The sizes that users are offered, each a dict of ``size``, ``name``, and optionally
        ``description``, ``purpose`` (``explore``, ``train`` or ``serve``) and ``default``. A
        notebook without another wish gets the default (the first, if none is marked), a run
        without a notebook server the first one to ``train`` with. Sizes that the other rules
        exclude are left out. Default: a quarter (default), a half, a whole GPU, none.

        ::

            c.SizePolicy.offered = [
                {"size": "10GiB", "name": "Small", "default": True},
                {"size": "40GiB", "name": "Large", "purpose": "train"},
            ]
        """,
    )
    only_offered = Bool(
        False,
        config=True,
        help="""
        Refuse every size that is not offered. Default False.

        ::

            c.SizePolicy.only_offered = True
        """,
    )
    minimum = Unicode(
        "",
        config=True,
        help="""
        Smallest size of one GPU, as a fraction or an amount of memory; empty for none. It holds
        for sizes of the same kind, and for all once the GPU is known. A MIG profile counts with
        the memory in its name; a bound in fractions does not hold for it. Default empty.

        ::

            c.SizePolicy.minimum = "1/8"
        """,
    )
    maximum = Unicode(
        "1",
        config=True,
        help="""
        Largest size of one GPU that a kernel may have, as a fraction or an amount of memory;
        empty for no limit but the GPU. A MIG profile counts with the memory in its name; a bound
        in fractions does not hold for it. Default ``1``, a whole GPU.

        ::

            c.SizePolicy.maximum = "40GiB"
        """,
    )
    max_devices = Integer(
        8,
        min=1,
        config=True,
        help="""
        Largest number of GPUs that one kernel may have a share of. Default 8.

        ::

            c.SizePolicy.max_devices = 1
        """,
    )
    max_total = Unicode(
        "",
        config=True,
        help="""
        Most that the kernels of one server may hold together, in GPUs (``3/2``, ``2``) or memory
        (``60GiB``); empty for no limit. In GPUs, a MIG instance counts as one. Default empty.

        ::

            c.SizePolicy.max_total = "2"
        """,
    )
    allow_zero = Bool(
        True,
        config=True,
        help="""
        Allow kernels without a GPU, size ``0``. Default True.

        ::

            c.SizePolicy.allow_zero = False
        """,
    )
    allow_profiles = Bool(
        True,
        config=True,
        help="""
        Allow MIG profiles to be asked for by name. Default True.

        ::

            c.SizePolicy.allow_profiles = False
        """,
    )

    @validate("offered")
    def _validate_offered(self, proposal: dict[str, Any]) -> list[dict[str, Any]]:
        value: list[dict[str, Any]] = proposal["value"]
        if not value:
            raise TraitError("SizePolicy.offered must have at least one size.")
        sizes = [_offered_size(entry) for entry in value]
        for size in sizes:
            if sizes.count(size) > 1:
                raise TraitError(f"SizePolicy.offered: {size} is there twice.")
        if sum(bool(entry.get("default")) for entry in value) > 1:
            raise TraitError("SizePolicy.offered: only one size can be the default.")
        return value

    @validate("minimum", "maximum")
    def _validate_bound(self, proposal: dict[str, Any]) -> str:
        text: str = proposal["value"]
        name: str = proposal["trait"].name
        bounds = {"minimum": self.minimum, "maximum": self.maximum, name: text}
        sizes = {key: _trait_size(value, key) for key, value in bounds.items() if value}
        if name in sizes and (sizes[name].count != 1 or sizes[name].profile):
            raise TraitError(f"SizePolicy.{name} is a fraction or memory of one GPU, not {text!r}.")
        if len(sizes) == 2 and _above(sizes["minimum"], sizes["maximum"], None):
            raise TraitError("SizePolicy.minimum is above SizePolicy.maximum.")
        return text

    @validate("max_total")
    def _validate_total(self, proposal: dict[str, Any]) -> str:
        text: str = proposal["value"]
        if text:
            try:
                _total(text)
            except SizeError as error:
                raise TraitError(f"SizePolicy.max_total: {error}") from error
        return text

    def offers(self) -> list[Offer]:
        """What users are offered, in the administrator's order.

        Sizes that the other rules exclude are left out. Should the default be among them, the
        first size left that has a GPU is the default; if there is none, no offer is.
        """
        marked = any(entry.get("default") for entry in self.offered)
        found = []
        for number, entry in enumerate(self.offered):
            size = Size.parse(str(entry["size"]))
            if self._excludes(size) is None:
                found.append(
                    Offer(
                        size=size,
                        name=entry.get("name") or str(size),
                        description=entry.get("description", ""),
                        purpose=entry.get("purpose", ""),
                        default=bool(entry.get("default")) if marked else number == 0,
                    )
                )
        if not any(offer.default for offer in found):
            first = next((n for n, offer in enumerate(found) if not offer.size.is_none), None)
            if first is not None:
                found[first] = replace(found[first], default=True)
        return found

    def default_size(self, *, headless: bool = False) -> Size:
        """What a kernel gets that nobody chose a size for.

        Parameters
        ----------
        headless: no notebook server is behind it, as with nbclient and papermill.

        Raises
        ------
        SizeNotAllowed: the other rules exclude every offered size with a GPU.
        """
        offers = self.offers()
        wanted = [offer for offer in offers if offer.purpose == "train"] if headless else []
        for offer in (*wanted, *(offer for offer in offers if offer.default)):
            return offer.size
        raise SizeNotAllowed(say("size-to-be-named", largest=self._largest))

    def check(self, text: str) -> Size:
        """Read a size that somebody asks for, and hold it against the rules.

        Raises
        ------
        SizeError: it cannot be understood.
        SizeNotAllowed: the rules exclude it; the message says what is allowed.
        """
        try:
            size = Size.parse(text)
        except MoreThanOneGpu as error:
            (sentence,) = paragraph(words_of(error)).sentences
            code, values = f"{sentence.code}-here", {**sentence.values, "largest": self._largest}
            raise SizeNotAllowed(say(code, **values)) from error
        if self.only_offered and size not in [offer.size for offer in self.offers()]:
            sizes = [str(offer.size) for offer in self.offers()]
            if not sizes:
                raise SizeNotAllowed(say("no-size-offered", size=size))
            raise SizeNotAllowed(say("size-not-offered", size=size, sizes=sizes))
        if why := self._excludes(size):
            raise SizeNotAllowed(why)
        return size

    def needs_capacity(self, size: Size, others: Iterable[tuple[Size, int | None]] = ()) -> bool:
        """True where a rule is of another kind than a size, so that the GPU has to be known.

        :meth:`check_on` and :meth:`check_total` then decide with its capacity. ``others`` are as
        in :meth:`check_total`.
        """
        if size.is_none:
            return False
        bounds = [
            Size.parse(text) for text in (self.minimum, self.maximum) if text not in ("", "1")
        ]
        if size.profile is None and any(
            (bound.memory is None) != (size.memory is None) for bound in bounds
        ):
            return True
        if not self.max_total:
            return False
        limit = _total(self.max_total)
        rows = [*others, (size, None)]
        return any(_counted(one, held, limit, None) is None for one, held in rows)

    def check_on(self, size: Size, capacity: int) -> None:
        """Hold a size against the bounds once the GPU is known.

        Parameters
        ----------
        capacity: bytes of memory of the GPU.

        Raises
        ------
        SizeNotAllowed
        """
        self._check_bounds(size, capacity)

    def check_total(
        self,
        size: Size,
        others: Iterable[tuple[Size, int | None]],
        capacity: int | None = None,
    ) -> None:
        """Hold a size against what the server's other kernels have.

        Parameters
        ----------
        others: their sizes, with the bytes of memory they hold on each GPU where that is known.
        capacity: bytes of memory of a GPU. Without it, sizes of another kind than the limit do
            not count: see :meth:`needs_capacity`.

        Raises
        ------
        SizeNotAllowed
        """
        if not self.max_total or size.is_none:
            return
        limit = _total(self.max_total)
        rows = [*others, (size, None)]
        total = sum((_counted(one, held, limit, capacity) or 0 for one, held in rows), Fraction(0))
        if total > limit:
            if isinstance(limit, int):
                held = {"total": int(total), "limit": limit}
                raise SizeNotAllowed(say("total-memory-at-most", size=size, **held))
            gpus = {"total": _show(total), "limit": _show(limit)}
            raise SizeNotAllowed(say("total-gpus-at-most", size=size, **gpus))

    @property
    def _largest(self) -> str:
        return self.maximum or "1"

    def _excludes(self, size: Size) -> str | None:
        """Why the rules exclude a size, or None; whether it is offered does not matter here."""
        if size.is_none and not self.allow_zero:
            return say("zero-excluded")
        if size.profile and not self.allow_profiles:
            return say("profiles-excluded")
        if size.count > self.max_devices:
            if self.max_devices == 1:
                return say("one-gpu-at-most", size=size, count=size.count)
            return say("gpus-at-most", size=size, count=size.count, most=self.max_devices)
        try:
            self._check_bounds(size, None)
        except SizeNotAllowed as error:
            return words_of(error)
        return None

    def _check_bounds(self, size: Size, capacity: int | None) -> None:
        if size.is_none:
            return
        if self.maximum and _above(size, Size.parse(self.maximum), capacity):
            raise SizeNotAllowed(say("size-too-large", size=size, largest=self.maximum))
        if self.minimum and _above(Size.parse(self.minimum), size, capacity):
            raise SizeNotAllowed(say("size-too-small", size=size, smallest=self.minimum))


def _above(one: Size, other: Size, capacity: int | None) -> bool:
    """Whether ``one`` is more of a GPU than ``other``; sizes of two kinds need the capacity."""
    if one.fraction is not None and other.fraction is not None:
        return one.fraction > other.fraction
    first, second = _memory(one), _memory(other)
    if first is not None and second is not None:
        return first > second
    if capacity is None or one.profile or other.profile:
        return False
    return one.bytes_of(capacity) > other.bytes_of(capacity)


def _memory(size: Size) -> int | None:
    """Bytes on each GPU where the size itself says so. ``1g.10gb`` has about 10 GiB."""
    if size.profile is not None:
        nominal = _NOMINAL.search(size.profile)
        return int(nominal[1]) * 2**30 if nominal else None
    return size.memory


def _counted(
    size: Size, held: int | None, limit: int | Fraction, capacity: int | None
) -> int | Fraction | None:
    """What a kernel counts against a limit, in the limit's measure.

    None where the capacity of the GPU has to be known and is not.
    """
    if size.is_none:
        return 0
    if isinstance(limit, int):
        each: int | Fraction | None = _memory(size) if held is None else held
        if each is None and capacity is not None:
            each = size.bytes_of(capacity)
    elif size.profile is not None:
        each = 1
    elif size.memory is not None:
        each = Fraction(size.memory, capacity) if capacity is not None else None
    else:
        each = size.fraction
    return None if each is None else size.count * each


def _show(amount: int | Fraction) -> str:
    """A number of GPUs, for people."""
    exact = Fraction(amount)
    return f"{exact}" if exact.denominator <= 1000 else f"{float(exact):.2f}"


def _total(text: str) -> int | Fraction:
    """A limit for several kernels: bytes (int), or GPUs (Fraction), which may be more than one."""
    try:
        size = Size.parse(text)
        if size.memory is not None:
            return size.memory * size.count
        if size.fraction is not None:
            return size.fraction * size.count
    except MoreThanOneGpu:
        with suppress(ValueError):
            return Fraction(text.strip())
    raise SizeError(
        f"{text!r} is neither a number of GPUs above 0, such as 3/2, nor an amount of memory"
    )


def _offered_size(entry: dict[Any, Any]) -> Size:
    """The size of an entry of ``offered``, all of which is checked."""
    for name, value in entry.items():
        if name not in _FIELDS:
            raise TraitError(f"SizePolicy.offered: {entry} knows no {name!r}.")
        if not isinstance(value, _FIELDS[name]) or (name == "size" and isinstance(value, bool)):
            kind = "True or False" if name == "default" else "text in quotes"
            raise TraitError(f"SizePolicy.offered: {name} is {kind}, not {value!r}.")
    if "size" not in entry:
        raise TraitError(f"SizePolicy.offered: {entry} needs a 'size'.")
    if entry.get("purpose", "") not in _PURPOSES:
        raise TraitError(
            f"SizePolicy.offered: the purpose {entry['purpose']!r} is none of explore, "
            "train and serve."
        )
    return _trait_size(entry["size"], "offered")


def _trait_size(value: object, name: str) -> Size:
    try:
        return Size.parse(str(value))
    except SizeError as error:
        raise TraitError(f"SizePolicy.{name}: {error}") from error
