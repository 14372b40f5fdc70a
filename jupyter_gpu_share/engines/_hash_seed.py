"""One seed of Python's hashes for each kernel, whatever process it has.

An object may remember the hash of a text, as a key that was computed once does. In another process
texts have other hashes, and the object would no longer be found where it was put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["HASH_SEED", "hash_seed"]

HASH_SEED = "PYTHONHASHSEED"


def hash_seed(kernel_id: str, env: Mapping[str, str]) -> str:
    """What Python is to be told: what ``env`` says, else a seed that comes of the kernel's id.

    The id stays the same over releases, restarts and other servers, and no two kernels share it.
    """
    told = env.get(HASH_SEED, "")
    if told and told != "random":
        return told
    digest = hashlib.sha256(b"hash seed of " + kernel_id.encode("utf-8", "surrogatepass")).digest()
    return str(int.from_bytes(digest[:4], "big") or 1)  # 0 would switch the randomization off
