"""GPUs of a simulation, of which shares are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...size import Size

__all__ = ["Gpus"]

_WHOLE = 1000


class Gpus:
    """So many GPUs, in thousandths."""

    def __init__(self, count: int) -> None:
        self._free = [_WHOLE] * count
        self._total = count * _WHOLE

    def copy(self) -> Gpus:
        """To try something on."""
        other = Gpus(0)
        other._free = self._free[:]
        other._total = self._total
        return other

    def take(self, size: Size) -> list[int] | None:
        """The GPUs on which a share was placed: the fullest that have room; None for no room."""
        part = _part(size)
        if size.count * part > self._total:
            return None
        free = self._free
        if part == _WHOLE:
            places = [place for place, left in enumerate(free) if left == _WHOLE][: size.count]
        else:
            room = [(left, place) for place, left in enumerate(free) if left >= part]
            places = [place for _, place in sorted(room)[: size.count]]
        if len(places) < size.count:
            return None
        self.use(size, places)
        return places

    def hold(self, size: Size) -> None:
        """Have nothing placed on the GPUs on which the least has to be freed for a size."""
        order = sorted(range(len(self._free)), key=lambda place: -self._free[place])
        for place in order[: size.count]:
            self._total -= self._free[place]
            self._free[place] = 0

    def fits(self, size: Size) -> bool:
        """Whether there is room."""
        part = _part(size)
        return sum(left >= part for left in self._free) >= size.count

    def could(self, size: Size, others: Iterable[Size]) -> bool:
        """False where there is no room even if these shares went back; a quick look."""
        back = sum(other.count * _part(other) for other in others)
        return size.count * _part(size) <= self._total + back

    def use(self, size: Size, places: Sequence[int]) -> None:
        """Put a share on these GPUs."""
        self._change(places, -_part(size))

    def free(self, size: Size, places: Sequence[int]) -> None:
        """Give a share back."""
        self._change(places, _part(size))

    def _change(self, places: Sequence[int], amount: int) -> None:
        for place in places:
            self._free[place] += amount
        self._total += amount * len(places)


def _part(size: Size) -> int:
    """Of each GPU, in thousandths, rounded up."""
    fraction = size.fraction
    if fraction is None:
        return _WHOLE
    return -(-fraction.numerator * _WHOLE // fraction.denominator)
