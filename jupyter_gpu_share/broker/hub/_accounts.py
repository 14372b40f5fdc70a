"""Which user of the machine a user of the Hub is."""

from __future__ import annotations

import hashlib
import pwd

from ...errors import EngineError

__all__ = ["LITTLEST", "account_of", "checked", "entry_of"]

_NAME = "{name}"
#: The Littlest JupyterHub's way, which shortens long names.
LITTLEST = "{tljh}"
#: Its longest names that stay, in characters, and what is left of others.
_WHOLE, _LEFT, _HASH = 25, 26, 5


def checked(pattern: str) -> str:
    """A pattern that tells users apart.

    Raises
    ------
    EngineError: it does not.
    """
    if pattern != LITTLEST and _NAME not in pattern:
        raise EngineError(
            f"The account {pattern!r} has no {_NAME} in it, so all users of the Hub would be one; "
            f"name it after --account, like jupyter-{_NAME}."
        )
    return pattern


def account_of(pattern: str, name: str) -> str:
    """The machine's name of the Hub's user ``name``."""
    if pattern != LITTLEST:
        return pattern.replace(_NAME, name)
    whole = f"jupyter-{name}"
    if len(whole) <= _WHOLE:
        return whole
    return f"{whole[:_LEFT]}-{hashlib.sha256(whole.encode()).hexdigest()[:_HASH]}"


def entry_of(account: str) -> pwd.struct_passwd | None:
    """What the machine knows of a user; None where it has no such user. May block."""
    try:
        return pwd.getpwnam(account)
    except (KeyError, ValueError):
        return None
