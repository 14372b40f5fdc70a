"""Asks a kernel to shut down, in Jupyter's own protocol, so that it can tidy up first."""

import hashlib
import hmac
import json
import os
import time

__all__ = ["ask"]


def ask(zmq, folder):
    """Send ``shutdown_request`` to the kernel; does not wait.

    Parameters
    ----------
    folder: of the mounted Secret, with the kernel's connection file.

    Returns the socket: what was said is lost if it is closed at once.
    """
    with open(os.path.join(folder, "connection.json")) as file:
        wire = json.load(file)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    if wire.get("curve_publickey") and wire.get("curve_secretkey"):
        socket.curve_serverkey = wire["curve_publickey"].encode()
        socket.curve_publickey = wire["curve_publickey"].encode()
        socket.curve_secretkey = wire["curve_secretkey"].encode()
    address = "127.0.0.1" if wire["ip"] == "0.0.0.0" else wire["ip"]  # noqa: S104 - never bound
    socket.connect("tcp://%s:%d" % (address, wire["control_port"]))
    header = {
        "msg_id": os.urandom(16).hex(),
        "msg_type": "shutdown_request",
        "session": os.urandom(16).hex(),
        "username": "",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": "5.3",
    }
    parts = [json.dumps(part).encode() for part in (header, {}, {}, {"restart": False})]
    digest = hmac.new(wire["key"].encode(), b"".join(parts), hashlib.sha256)
    socket.send_multipart([b"<IDS|MSG>", digest.hexdigest().encode(), *parts], zmq.NOBLOCK)
    return socket
