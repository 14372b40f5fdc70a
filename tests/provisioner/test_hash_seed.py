"""Texts have the same hash in every process of a kernel."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from managers import Kernels, run

from jupyter_gpu_share.engines._hash_seed import HASH_SEED, hash_seed
from jupyter_gpu_share.runtime import Runtime

#: An object that computes its hash once, as many libraries' keys do.
CACHES = """
class Key:
    def __init__(self, name):
        self.name, self.hash = name, hash(name)
    def __hash__(self):
        return self.hash
    def __eq__(self, other):
        return self.name == other.name
found = {Key("a"): 1}
"""


@pytest.mark.usefixtures("one_gpu")
async def test_an_object_that_remembers_a_hash_is_found_after_a_wake(kernels: Kernels) -> None:
    Runtime.instance().idle_policy.set_trait("in_place", False)
    manager = await kernels.start("1/4")
    client = await kernels.client(manager)
    await run(client, CACHES)
    before = await run(client, "print(hash('text'))")
    await Runtime.instance().release(manager.kernel_id, lose_variables=False)
    assert (await run(client, "print(found[Key('a')])")).endswith("\n1")
    assert await run(client, "print(hash('text'))") == before
    await manager.restart_kernel()
    assert await run(client, "print(hash('text'))") == before


@pytest.mark.usefixtures("one_gpu")
async def test_two_kernels_have_different_hashes(kernels: Kernels) -> None:
    async def text(size: str) -> Any:
        client = await kernels.client(await kernels.start(size))
        return await run(client, "print(hash('text'))")

    one, other = await asyncio.gather(text("1/4"), text("0"))
    assert one != other


@pytest.mark.parametrize(
    ("text", "told"),
    [("7", "7"), ("0", "0"), ("random", ""), ("4294967296", ""), ("$(SECRET)", ""), ("٣", "")],
)
def test_what_the_user_sets_counts(text: str, told: str) -> None:
    assert hash_seed("k", {HASH_SEED: text}) == (told or hash_seed("k", {}))


def test_a_seed_is_one_that_python_takes() -> None:
    seeds = {hash_seed(f"kernel {number}", {}) for number in range(1000)}
    assert len(seeds) == 1000
    assert all(0 < int(seed) < 2**32 for seed in seeds)
