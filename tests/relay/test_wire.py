"""Frames of Jupyter's form, and of none."""

from __future__ import annotations

import pytest

from jupyter_gpu_share.relay._activity import ActivityCounter
from jupyter_gpu_share.relay._wire import parts, signed

DEEP = b"[" * 100_000


def frames(*after: bytes) -> list[bytes]:
    return [b"ident", b"<IDS|MSG>", b"signature", *after]


def test_the_parts_of_a_message() -> None:
    message = frames(b'{"a": 1}', b'{"b": 2}', b"{}", b'{"c": 3}', b"buffer")
    assert parts(message) == ({"a": 1}, {"b": 2}, {"c": 3})
    assert parts(message, content=False) == ({"a": 1}, {"b": 2}, {})
    assert signed(message) == (b"signature", message[3:7])


def test_what_is_no_object_is_empty() -> None:
    message = frames(b'{"a": 1}', b"null", b"{}", b"[3]")
    assert parts(message) == ({"a": 1}, {}, {})


@pytest.mark.parametrize(
    "message",
    [
        [],
        [b"ident"],
        frames(),
        frames(b"{}"),
        frames(b"{", b"{}", b"{}", b"{}"),
        frames(b"\xff", b"{}", b"{}", b"{}"),
        frames(b"{}", b"{}", b"{}", DEEP),
    ],
)
def test_what_is_no_message_has_no_parts(message: list[bytes]) -> None:
    assert parts(message) == ({}, {}, {})


def test_a_message_that_is_cut_short_is_not_signed() -> None:
    assert signed([b"ident"]) is None
    assert signed(frames(b"{}", b"{}", b"{}")) is None


@pytest.mark.parametrize("parent", [None, ["m1"], {"m1": 1}, 1])
def test_a_reply_to_nothing_is_none(parent: object) -> None:
    counter = ActivityCounter()
    counter.request({"msg_type": "execute_request", "msg_id": "m1"})
    assert not counter.reply("execute_reply", parent)
