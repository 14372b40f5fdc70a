"""The hint about a size that a notebook may carry in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["size_in_notebook"]

#: Larger files are not read for a hint.
_MAX_BYTES = 64 * 2**20


def size_in_notebook(path: Path) -> str | None:
    """The text under ``metadata.jupyter_gpu_share.size``, or None. Blocks on the disk.

    A notebook that cannot be read has no hint; the notebook itself will say what is wrong.
    """
    try:
        if path.suffix != ".ipynb" or path.stat().st_size > _MAX_BYTES:
            return None
        metadata = json.loads(path.read_bytes()).get("metadata", {})
        hint = metadata.get("jupyter_gpu_share", {}).get("size")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return hint if isinstance(hint, str) and hint else None
