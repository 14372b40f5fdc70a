"""What an administrator has told the broker: which shares are asked back, and whether it pauses."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ..errors import LedgerError
from ..sentences import say

__all__ = ["PAUSED", "Orders"]

PAUSED = say("no-new-shares-here")
_FILE = "paused"


class Orders:
    """The orders of administrators. Kernels are named as in the ledger.

    Parameters
    ----------
    folder: the broker's own; a pause is kept there over restarts.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE
        self._asked: frozenset[str] = frozenset()
        #: Whether new shares are given out.
        self.paused = False

    def open(self) -> None:
        """Read what is kept."""
        self.paused = self._file.exists()

    def pause(self, paused: bool) -> None:
        """Give out no new shares, or go on.

        Raises
        ------
        LedgerError: it cannot be kept.
        """
        try:
            if paused:
                self._file.touch(mode=0o600)
            else:
                with suppress(FileNotFoundError):
                    self._file.unlink()
        except OSError as error:
            raise LedgerError(
                f"The file {self._file} cannot be changed: {error.strerror}. Nothing was done."
            ) from error
        self.paused = paused

    def ask_back(self, name: str) -> None:
        """Ask a share back as if somebody waited for it, until it has gone."""
        self._asked |= {name}

    def asked(self, idle: Collection[str]) -> frozenset[str]:
        """Those of these idle kernels whose share is asked back."""
        return self._asked & frozenset(idle)

    def is_asked(self, name: str) -> bool:
        """Whether a share is asked back, used or not."""
        return name in self._asked

    def remove(self, name: str) -> None:
        """Forget the order about a share that has gone."""
        self._asked -= {name}

    def keep(self, there: Collection[str]) -> None:
        """Forget the orders about claims that are there no more."""
        self._asked &= frozenset(there)
