"""The administrator's rules about sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..errors import MoreThanOneGpu, SizeError, SizeNotAllowed
from ._grammar import Size, format_bytes

_PURPOSES = ("", "explore", "train", "serve")
_FIELDS = {"size", "name", "description", "purpose", "default"}


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
                "description": "To explore data and build models",
                "purpose": "explore",
                "default": True,
            },
            {
                "size": "1/2",
                "name": "Half",
                "description": "To train small models",
                "purpose": "train",
            },
            {
                "size": "1",
                "name": "Whole GPU",
                "description": "To train with all of its memory",
                "purpose": "train",
            },
            {"size": "0", "name": "No GPU", "description": "For work that needs none"},
        ],
        config=True,
        help="""
        The sizes that users are offered, each a dict of ``size``, ``name``, and optionally
        ``description``, ``purpose`` (``explore``, ``train`` or ``serve``) and ``default``. A
        notebook without another wish gets the default (the first, if none is marked), a run
        without a notebook server the first one to ``train`` with. Default: a quarter (default), a
        half, a whole GPU, none.

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
        for sizes of the same kind, and for all once the GPU is known. Default empty.

        ::

            c.SizePolicy.minimum = "1/8"
        """,
    )
    maximum = Unicode(
        "1",
        config=True,
        help="""
        Largest size of one GPU that a kernel may have, as a fraction or an amount of memory.
        Default ``1``, a whole GPU.

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
        (``60GiB``); empty for no limit. Default empty.

        ::

            c.SizePolicy.max_total = "2"
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
        for entry in value:
            unknown = set(entry) - _FIELDS
            if unknown or "size" not in entry:
                what = f"knows no {min(unknown)!r}" if unknown else "needs a 'size'"
                raise TraitError(f"SizePolicy.offered: {entry} {what}.")
            if entry.get("purpose", "") not in _PURPOSES:
                raise TraitError(
                    f"SizePolicy.offered: the purpose {entry['purpose']!r} is none of explore, "
                    "train and serve."
                )
            _trait_size(entry["size"], "offered")
        if sum(bool(entry.get("default")) for entry in value) > 1:
            raise TraitError("SizePolicy.offered: only one size can be the default.")
        return value

    @validate("minimum", "maximum")
    def _validate_bound(self, proposal: dict[str, Any]) -> str:
        text: str = proposal["value"]
        if text and _trait_size(text, proposal["trait"].name).count != 1:
            name = proposal["trait"].name
            raise TraitError(f"SizePolicy.{name} is a fraction or memory of one GPU, not {text!r}.")
        return text

    @validate("max_total")
    def _validate_total(self, proposal: dict[str, Any]) -> str:
        text: str = proposal["value"]
        if text:
            try:
                _total(text)
            except (SizeError, ValueError) as error:
                raise TraitError(f"SizePolicy.max_total: {error}") from error
        return text

    def offers(self) -> list[Offer]:
        """What users are offered, in the administrator's order."""
        marked = any(entry.get("default") for entry in self.offered)
        result = []
        for number, entry in enumerate(self.offered):
            size = Size.parse(str(entry["size"]))
            result.append(
                Offer(
                    size=size,
                    name=entry.get("name") or str(size),
                    description=entry.get("description", ""),
                    purpose=entry.get("purpose", ""),
                    default=bool(entry.get("default")) if marked else number == 0,
                )
            )
        return result

    def default_size(self, *, headless: bool = False) -> Size:
        """What a kernel gets that nobody chose a size for.

        Parameters
        ----------
        headless: no notebook server is behind it, as with nbclient and papermill.
        """
        offers = self.offers()
        if headless and (train := [offer for offer in offers if offer.purpose == "train"]):
            return train[0].size
        return next(offer.size for offer in offers if offer.default)

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
            raise SizeNotAllowed(f"{error}; the largest size here is {self.maximum}") from error
        if self.only_offered and size not in [offer.size for offer in self.offers()]:
            offered = ", ".join(str(offer.size) for offer in self.offers())
            raise SizeNotAllowed(f"{size} is not offered here; choose one of {offered}")
        if size.profile and not self.allow_profiles:
            raise SizeNotAllowed("MIG profiles cannot be chosen here; name a fraction or memory")
        if size.count > self.max_devices:
            many = "one GPU" if self.max_devices == 1 else f"{self.max_devices} GPUs"
            raise SizeNotAllowed(f"{size} asks for {size.count} GPUs; a kernel has {many} at most")
        self._check_bounds(size, None)
        return size

    def needs_capacity(self, size: Size) -> bool:
        """True where a bound is of another kind than the size: see :meth:`check_on`."""
        bounds = [
            Size.parse(text) for text in (self.minimum, self.maximum) if text not in ("", "1")
        ]
        return not size.is_none and any(
            (bound.memory is None) != (size.memory is None) for bound in bounds
        )

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

    def check_total(self, size: Size, others: Iterable[tuple[Size, int | None]]) -> None:
        """Hold a size against what the server's other kernels have.

        Parameters
        ----------
        others: their sizes, with the bytes of memory they hold on each GPU where that is known.

        Raises
        ------
        SizeNotAllowed
        """
        if not self.max_total or size.is_none:
            return
        limit = _total(self.max_total)
        rows = [*others, (size, size.memory)]
        if isinstance(limit, int):
            total: int | Fraction = sum(one.count * (held or 0) for one, held in rows)
            shown, bound = format_bytes(int(total)), format_bytes(limit)
        else:
            total = sum((one.count * (one.fraction or Fraction(0)) for one, _ in rows), Fraction(0))
            shown, bound = f"{total} GPUs", f"{limit} GPUs"
        if total > limit:
            raise SizeNotAllowed(
                f"With {size} your kernels would hold {shown}; {bound} is the limit here. "
                "Shut down one, or choose a smaller size"
            )

    def _check_bounds(self, size: Size, capacity: int | None) -> None:
        if size.is_none:
            return
        if self.maximum and _above(size, Size.parse(self.maximum), capacity):
            raise SizeNotAllowed(
                f"{size} is more than a kernel may have; the largest size here is {self.maximum}"
            )
        if self.minimum and _above(Size.parse(self.minimum), size, capacity):
            raise SizeNotAllowed(
                f"{size} is less than is given out; the smallest size here is {self.minimum}"
            )


def _above(one: Size, other: Size, capacity: int | None) -> bool:
    """Whether ``one`` is more of a GPU than ``other``; sizes of two kinds need the capacity."""
    if one.fraction is not None and other.fraction is not None:
        return one.fraction > other.fraction
    if one.memory is not None and other.memory is not None:
        return one.memory > other.memory
    if capacity is None or one.profile or other.profile:
        return False
    return one.bytes_of(capacity) > other.bytes_of(capacity)


def _total(text: str) -> int | Fraction:
    """A limit for several kernels: bytes, or GPUs, of which there may be more than one."""
    try:
        size = Size.parse(text)
    except MoreThanOneGpu:
        return Fraction(text.strip())
    if size.memory is not None:
        return size.memory * size.count
    if size.fraction is not None:
        return size.fraction * size.count
    raise ValueError(f"{text!r} is neither a number of GPUs nor an amount of memory")


def _trait_size(value: object, name: str) -> Size:
    try:
        return Size.parse(str(value))
    except SizeError as error:
        raise TraitError(f"SizePolicy.{name}: {error}") from error
