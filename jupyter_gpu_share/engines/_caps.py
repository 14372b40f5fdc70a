"""Soft caps that frameworks read from the environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

__all__ = ["framework_caps", "limits_of"]

#: Variables of a kernel's environment that follow from how much it holds.
_LIMITS = (
    "JUPYTER_GPU_SHARE_MEMORY_BYTES",
    "JUPYTER_GPU_SHARE_FRACTION",
    "JUPYTER_GPU_SHARE_ISOLATION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "CUPY_GPU_MEMORY_LIMIT",
)


def limits_of(env: Mapping[str, str]) -> dict[str, str | None]:
    """Of a kernel's whole environment what changes with the size of its share."""
    return {name: env.get(name) for name in _LIMITS}


def framework_caps(
    memory_bytes: int, fraction: Fraction, base: Mapping[str, str]
) -> dict[str, str]:
    """For the frameworks that read their cap from the environment; hooks see to the others."""
    # Rounded down to what the text can show, so that it is never more than the share.
    ceiling = int(fraction * 10_000) / 10_000
    caps = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_lower(base, ceiling):.4f}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": base.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
        "TF_FORCE_GPU_ALLOW_GROWTH": base.get("TF_FORCE_GPU_ALLOW_GROWTH", "true"),
        "CUPY_GPU_MEMORY_LIMIT": str(memory_bytes),
    }
    asked = base.get("CUPY_GPU_MEMORY_LIMIT", "")
    if asked.isdigit() and 0 < int(asked) < memory_bytes:
        caps["CUPY_GPU_MEMORY_LIMIT"] = asked
    return caps


def _lower(base: Mapping[str, str], ceiling: float) -> float:
    try:
        asked = float(base["XLA_PYTHON_CLIENT_MEM_FRACTION"])
    except (KeyError, ValueError):
        return ceiling
    return asked if 0 < asked < ceiling else ceiling
