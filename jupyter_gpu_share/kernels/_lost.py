"""Notes of variables that are lost, for the notebook whose they were.

A note lies where the variables were saved, or would have been. The next kernel of the notebook
tells its line, and the note goes. It has a seal, as what is beside saved variables: nobody else
can have a notebook say something.
"""

from __future__ import annotations

import hmac
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .._text import one_line
from ..sentences import spell
from ._private import UnsafeFileError, new_file, open_file, seal

__all__ = [
    "LOST",
    "Lost",
    "lasts",
    "left_alone",
    "not_kept",
    "not_rescued",
    "not_saved",
    "not_taken",
    "rests",
    "too_old",
    "waits",
]

#: Ending of a note's name; the rest of it is that of the file of variables.
LOST = ".lost"
_FORMAT = 1
_PURPOSE = b"jupyter-gpu-share: whose variables are lost\0"
#: Seconds that a note waits at least, also where saved variables wait for less.
_WEEK = 7 * 86400.0


@dataclass(frozen=True)
class Lost:
    """What one notebook has lost.

    Attributes
    ----------
    root: folder of notebooks of the server.
    path: of the notebook, within that folder.
    line: for its user.
    """

    root: str
    path: str
    line: str

    def write(self, kept: Path) -> None:
        """Put it beside where a file of variables is, or would be.

        Raises
        ------
        EngineError, OSError
        """
        content = {"format": _FORMAT, **asdict(self)}
        content["seal"] = seal(_PURPOSE, content)
        partial = kept.with_suffix(".lost-part")
        with new_file(partial) as file:
            file.write(json.dumps(content).encode())
        # It is not forced to the disk: a share must not wait for that.
        partial.replace(kept.with_suffix(LOST))

    @classmethod
    def read(cls, path: Path) -> Lost | None:
        """A note; None where no server of this user has written it, or it is gone."""
        with suppress(OSError, UnsafeFileError, ValueError, TypeError, KeyError, AttributeError):
            with open_file(path) as file:
                found = json.loads(file.read(2**20))
            told = found.pop("seal")
            if found["format"] == _FORMAT and hmac.compare_digest(told, seal(_PURPOSE, found)):
                del found["format"]
                return cls(**found)
        return None


def lasts(lifetime: float) -> float:
    """Seconds that a note waits, where saved variables wait for ``lifetime``."""
    return max(lifetime, _WEEK)


# -- the lines ---------------------------------------------------------------------------------

_AGAIN = "Run its cells again."


def rests() -> str:
    """A process has them that lives on without its share, and ends with its server."""
    return (
        f"The variables of this notebook were held, since {_clock()}, by a kernel that has ended "
        f"with its server. {_AGAIN}"
    )


def not_saved(why: str) -> str:
    """Their server stopped in good order, and could not save them."""
    return (
        f"The variables of this notebook could not be saved when its server stopped at {_clock()}: "
        f"{_sentence(why)} {_AGAIN}"
    )


def not_kept() -> str:
    """Their server stopped in good order, and the administrator keeps none."""
    return (
        f"The variables of this notebook ended with its server at {_clock()}: none are kept for "
        f"the next one here (IdlePolicy.snapshot_lifetime). {_AGAIN}"
    )


def not_rescued(reason: str, why: str) -> str:
    """Others have ended their kernel, and they could not be saved before."""
    return f"{_sentence(reason)} {_sentence(why)} {_AGAIN}"


def too_old(saved: float, lifetime: float) -> str:
    """They waited too long.

    Parameters
    ----------
    saved: when, in seconds since the epoch.
    """
    return (
        f"The variables of this notebook were saved at {_clock(saved)} and are removed: no server "
        f"took them over within {spell(lifetime)} (IdlePolicy.snapshot_lifetime). {_AGAIN}"
    )


def left_alone(kept: Path, why: str) -> str:
    """Their file is not what it should be."""
    return (
        f"The variables that were saved of this notebook are not loaded: {kept}: {_sentence(why)} "
        f"{_AGAIN}"
    )


def not_taken(kept: Path, why: str) -> str:
    """The next server could not begin their kernel."""
    return (
        f"The variables that were saved of this notebook were not taken over: {_sentence(why)} "
        f"The next server of these notebooks tries it again with {kept}."
    )


def waits() -> str:
    """Their server has ended after this one had looked for such."""
    return (
        "Another kernel of this notebook is saved, whose server has ended. The next server of "
        "these notebooks takes it over, with its variables."
    )


def _sentence(why: str) -> str:
    return one_line(why).rstrip(".") + "."


def _clock(at: float | None = None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
