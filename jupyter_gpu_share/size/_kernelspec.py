"""The size that a kernelspec names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._requests import SIZE_VARIABLE

__all__ = ["size_in_kernelspec"]


def size_in_kernelspec(metadata: Mapping[str, Any] | None, env: Mapping[str, str]) -> str | None:
    """The text under its ``env`` or in its provisioner's config, or None.

    Who picks such a kernelspec has picked its size: its name says it.

    Parameters
    ----------
    metadata, env: of the kernelspec.
    """
    stanza = (metadata or {}).get("kernel_provisioner") or {}
    return env.get(SIZE_VARIABLE) or (stanza.get("config") or {}).get("size") or None
