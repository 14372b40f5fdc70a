"""Soft caps that frameworks read from the environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

__all__ = ["context_bytes", "framework_caps", "limits_of", "usual_context"]

_MIB = 2**20
#: Added to a context that was measured: libraries that are loaded later take some, too.
_LATER = 64 * _MIB

#: Variables of a kernel's environment that follow from how much it holds.
_LIMITS = (
    "JUPYTER_GPU_SHARE_MEMORY_BYTES",
    "JUPYTER_GPU_SHARE_FRACTION",
    "JUPYTER_GPU_SHARE_ISOLATION",
    "JUPYTER_GPU_SHARE_CAP_BYTES",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "CUPY_GPU_MEMORY_LIMIT",
)


def limits_of(env: Mapping[str, str]) -> dict[str, str | None]:
    """Of a kernel's whole environment what changes with the size of its share."""
    return {name: env.get(name) for name in _LIMITS}


def usual_context(whole_bytes: int) -> int:
    """What CUDA's context takes of a GPU, estimated from the bytes that the GPU has.

    From some 200 MiB on small GPUs to nearly 1 GiB on the largest. Too much costs a user a little
    memory, and too little the cell.
    """
    return min(max(whole_bytes // 64, 512 * _MIB), 1024 * _MIB)


def context_bytes(memory_bytes: int, whole_bytes: int, measured: int | None = None) -> int:
    """Of a share, what is left for CUDA's context and its libraries, which no framework counts.

    They take as much however small the share is.

    Parameters
    ----------
    memory_bytes: of the share, on one GPU.
    whole_bytes: of the GPU.
    measured: what a context took on such a GPU, where that is known.
    """
    usual = usual_context(whole_bytes) if measured is None else measured + _LATER
    return min(usual, memory_bytes // 2)


def framework_caps(
    memory_bytes: int,
    fraction: Fraction,
    base: Mapping[str, str],
    measured: int | None = None,
) -> dict[str, str]:
    """For the frameworks that read their cap from the environment; hooks see to the others.

    Parameters
    ----------
    memory_bytes, fraction: of one GPU; no bytes where only the fraction is known.
    base: the environment of the kernel, where the user may have asked for less.
    measured: what CUDA's context takes, where that is known.
    """
    if not memory_bytes:
        # Nothing else can be told: the others count in bytes.
        return {
            **_xla_fraction(fraction, base),
            "XLA_PYTHON_CLIENT_PREALLOCATE": base.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
            "TF_FORCE_GPU_ALLOW_GROWTH": base.get("TF_FORCE_GPU_ALLOW_GROWTH", "true"),
        }
    whole = int(memory_bytes / fraction) if fraction > 0 else memory_bytes
    cap = memory_bytes - context_bytes(memory_bytes, whole, measured)
    caps = {
        "JUPYTER_GPU_SHARE_CAP_BYTES": str(cap),
        **_xla_fraction(Fraction(cap, whole or 1), base),
        "XLA_PYTHON_CLIENT_PREALLOCATE": base.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
        "TF_FORCE_GPU_ALLOW_GROWTH": base.get("TF_FORCE_GPU_ALLOW_GROWTH", "true"),
        "CUPY_GPU_MEMORY_LIMIT": str(cap),
    }
    asked = base.get("CUPY_GPU_MEMORY_LIMIT", "")
    if asked.isdigit() and 0 < int(asked) < cap:
        caps["CUPY_GPU_MEMORY_LIMIT"] = asked
    return caps


def _xla_fraction(ceiling: Fraction, base: Mapping[str, str]) -> dict[str, str]:
    """JAX's own variable, under one of its names: with both set it does not start."""
    new, old = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    name = new if new in base else old
    # Rounded down to what the text can show, so that it is never more than the share, and not to
    # nothing, which JAX takes for no limit.
    most = max(int(ceiling * 1_000_000), 1) / 1_000_000
    try:
        asked = float(base[name])
    except (KeyError, ValueError):
        asked = most
    text = f"{asked if 0 < asked < most else most:.6f}"
    # The other name is taken out of what the user gave, where that had both.
    return {name: text}
