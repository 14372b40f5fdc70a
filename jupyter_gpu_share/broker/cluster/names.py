"""Names of kernels among those of all users, as texts: what limits, order and account go by.

As JSON no character of the one part can pass for the border to the next. Users and servers are
proven, so nobody can name a kernel of somebody else.
"""

from __future__ import annotations

import json

from .ruling import Key

__all__ = ["key_of", "prefix_of"]


def key_of(name: str) -> Key:
    """The key whose :attr:`Key.text` this is."""
    user, server, kernel_id = json.loads(name)
    return Key(user, server, kernel_id)


def prefix_of(user: str, server: str) -> str:
    """The beginning of the names of a server's kernels, and of no others."""
    return json.dumps([user, server])[:-1] + ", "
