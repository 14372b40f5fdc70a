"""One seed of Python's hashes for each kernel, whatever process it has.

An object may remember the hash of a text, as a key that was computed once does. In another process
texts have other hashes, and the object would no longer be found where it was put.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

__all__ = ["HASH_SEED", "hash_seed"]

HASH_SEED = "PYTHONHASHSEED"
_SEED = re.compile("[0-9]{1,10}")


def hash_seed(kernel_id: str, env: Mapping[str, str]) -> str:
    """What Python is to be told: a seed of ``env``, else one that comes of the kernel's id.

    The id stays the same over releases, restarts and other servers, and no two kernels share it.
    What is no seed for Python (``random``, or any text) gets into no command and no pod.
    """
    told = env.get(HASH_SEED, "")
    if _SEED.fullmatch(told) and int(told) < 2**32:
        return told
    digest = hashlib.sha256(b"hash seed of " + kernel_id.encode("utf-8", "surrogatepass")).digest()
    return str(int.from_bytes(digest[:4], "big") or 1)  # 0 would switch the randomization off
