"""Lets a pod be reached over IPv6: kernels of all languages listen on IPv4, which it may not have.

What comes to a port over IPv6 goes on, byte by byte, to the same port of IPv4's own loopback.
"""

import selectors
import socket
import threading
from contextlib import suppress

__all__ = ["serve"]

#: Connections at one moment. A server has one to each port.
_MOST = 64
_PIECE = 2**16


def serve(ports):
    """Carry what comes to these ports, in threads that end with the process.

    Returns the sockets that listen: fewer than ports where one is taken, none without IPv6.
    """
    listening = []
    for port in ports:
        try:
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        except OSError:
            return []
        try:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("::", port))
            listener.listen(16)
            listener.setblocking(False)
        except OSError:
            listener.close()
            continue
        listening.append(listener)
    if listening:
        waiting = selectors.DefaultSelector()
        for listener in listening:
            waiting.register(listener, selectors.EVENT_READ, listener)
        _start(_accept, waiting)
    return listening


def _accept(waiting):
    room = threading.BoundedSemaphore(_MOST)
    while True:
        for key, _ in waiting.select():
            try:
                peer, _ = key.data.accept()
                port = peer.getsockname()[1]
            except OSError:
                continue  # the peer was faster to go
            peer.setblocking(True)
            if room.acquire(blocking=False):
                _start(_carry_both, peer, port, room)
            else:
                peer.close()


def _carry_both(peer, port, room):
    try:
        with peer, socket.create_connection(("127.0.0.1", port)) as kernel:
            for each in (peer, kernel):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = _start(_carry, kernel, peer)
            _carry(peer, kernel)
            back.join()
    except OSError:
        pass  # nobody listens yet: the peer tries again
    finally:
        room.release()


def _carry(source, target):
    with suppress(OSError):
        while True:
            piece = source.recv(_PIECE)
            if not piece:
                break
            target.sendall(piece)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _start(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread
