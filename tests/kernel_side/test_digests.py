"""The digest of a file, which several threads make together."""

from __future__ import annotations

import hashlib
import random

import pytest
from gpu_share_kernel import digests
from plain_digest import MIB, plain_digest


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_same_however_the_content_is_cut(
    monkeypatch: pytest.MonkeyPatch, seed: int, lanes: int
) -> None:
    monkeypatch.setattr(digests, "_LANES", lanes)
    dice = random.Random(seed)
    data = dice.randbytes(dice.choice((0, 1, MIB, 5 * MIB, 5 * MIB + 7)))
    made, at = digests.Digest(), 0
    while at < len(data):
        size = dice.choice((1, 9, 3000, 2**18, MIB - 1, MIB, 3 * MIB))
        # What is short may go at once: a bytearray that is changed afterwards shows it.
        part = bytearray(data[at : at + size])
        made.update(part)
        if size < 2**18:
            made.wait()
            part[:] = bytes(len(part))
        at += size
        if dice.random() < 0.2:
            assert made.digest() == plain_digest(data[:at]), "so far"
        if dice.random() < 0.2:
            made = made.copy()
    assert made.hexdigest() == plain_digest(data).hex()
    expected = [hashlib.sha256(data[n : n + MIB]).digest() for n in range(0, len(data), MIB)]
    assert made.leaves() == expected


def test_a_copy_goes_on_by_itself() -> None:
    one = digests.Digest()
    one.update(b"a" * (MIB + 3))
    two = one.copy()
    two.update(b"b" * 2 * MIB)
    one.update(b"c")
    assert one.digest() == plain_digest(b"a" * (MIB + 3) + b"c")
    assert two.digest() == plain_digest(b"a" * (MIB + 3) + b"b" * 2 * MIB)


def test_it_is_made_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, **arguments: object) -> None: ...

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(digests, "_LANES", 2)
    monkeypatch.setattr(digests.threading, "Thread", Refused)
    made, data = digests.Digest(), bytes(range(256)) * 2**14
    made.update(data)
    assert made.digest() == plain_digest(data)
