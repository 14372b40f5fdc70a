"""What is said at the end: to the kernel, so that it can tidy up, and to whoever asks later."""

import hashlib
import hmac
import json
import os
import time

__all__ = ["ask", "leave_word"]

#: What is written here, the cluster shows as the reason of the container's end.
_TERMINATION_LOG = "/dev/termination-log"


def ask(zmq, folder):
    """Send ``shutdown_request`` to the kernel, in Jupyter's own protocol; does not wait.

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


def leave_word(text):
    """Tell whoever looks at the pod when it is over. The file is there in pods only."""
    if os.path.exists(_TERMINATION_LOG):
        try:
            with open(_TERMINATION_LOG, "w") as file:
                file.write(text)
        except OSError:
            pass
