"""Messages on the wire: frames of Jupyter's form, and reading them from sockets without waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import zmq

__all__ = ["BUFFERS", "DELIMITER", "Socket", "parts", "received", "received_heads", "signed"]

Socket = zmq.Socket[bytes]

#: Ends the identities of a message. Signature, header, parent header, metadata and content follow.
DELIMITER = b"<IDS|MSG>"
#: Offsets from the delimiter.
HEADER, PARENT, CONTENT, BUFFERS = 2, 3, 5, 6


def received(socket: Socket, most: int | None = None) -> Iterator[list[bytes]]:
    """Whole messages that are here already, at most ``most`` of them.

    The bound is for a sender that never is silent: others must have their turn.
    """
    taken = 0
    while most is None or taken < most:
        try:
            frames = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        taken += 1
        yield frames


def received_heads(socket: Socket) -> Iterator[list[bytes]]:
    """The messages that are here already, up to their content; buffers are not copied."""
    while True:
        head: list[bytes] = []
        end: int | None = None
        try:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        while True:
            if end is None or len(head) < end:
                head.append(frame.bytes)
                if end is None and head[-1] == DELIMITER:
                    end = len(head) - 1 + BUFFERS
            if not frame.more:
                break
            frame = socket.recv(copy=False)
        yield head


def parts(
    frames: list[bytes], *, content: bool = True
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Header, parent header and content.

    Each is empty where it is no JSON object: some kernels send ``null`` as a parent header. All
    are where the message is not of Jupyter's form.
    """
    try:
        start = frames.index(DELIMITER)
        header, parent = json.loads(frames[start + HEADER]), json.loads(frames[start + PARENT])
        body = json.loads(frames[start + CONTENT]) if content else {}
    except (ValueError, IndexError, RecursionError):
        return {}, {}, {}
    return _object(header), _object(parent), _object(body)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def signed(frames: list[bytes]) -> tuple[bytes, list[bytes]] | None:
    """The signature and the frames that it is of; None where the message is not of that form."""
    if DELIMITER not in frames:
        return None
    start = frames.index(DELIMITER)
    covered = frames[start + HEADER : start + BUFFERS]
    return (frames[start + 1], covered) if len(covered) == BUFFERS - HEADER else None
