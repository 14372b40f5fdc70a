"""The agent as a client of its own kernel: Jupyter's protocol, within the pod.

The keys are those of the connection file in the mounted Secret.
"""

import hashlib
import hmac
import json
import os
import time

__all__ = ["OwnClient"]

#: Frames from the one that ends the identities of a message: signature, header, parent header,
#: metadata, content.
_DELIMITER = b"<IDS|MSG>"
_PARTS = 4
#: The kernel is the user's own: so long may a message of it be.
_LONGEST_MESSAGE = 2**24


class OwnClient:
    """Makes sockets to one kernel, signs what is sent to it and checks what it says.

    Parameters
    ----------
    folder: of the mounted Secret, with the kernel's connection file.

    Raises
    ------
    OSError, ValueError, KeyError: there is no connection file that can be read.
    """

    def __init__(self, zmq, folder):
        self._zmq = zmq
        with open(os.path.join(folder, "connection.json")) as file:
            self._wire = json.load(file)
        self._key = self._wire["key"].encode()
        self._session = os.urandom(16).hex()

    def connect(self, channel, topic=None):
        """A socket to a channel of the kernel; of ``iopub`` it gets what begins with ``topic``."""
        zmq, wire = self._zmq, self._wire
        socket = zmq.Context.instance().socket(zmq.DEALER if topic is None else zmq.SUB)
        socket.linger = 0
        socket.maxmsgsize = _LONGEST_MESSAGE
        if topic is not None:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        if wire.get("curve_publickey") and wire.get("curve_secretkey"):
            socket.curve_serverkey = wire["curve_publickey"].encode()
            socket.curve_publickey = wire["curve_publickey"].encode()
            socket.curve_secretkey = wire["curve_secretkey"].encode()
        address = "127.0.0.1" if wire["ip"] == "0.0.0.0" else wire["ip"]  # noqa: S104 - never bound
        socket.connect("tcp://%s:%d" % (address, wire["%s_port" % channel]))
        return socket

    def send(self, socket, kind, content, metadata=None, **header):
        """Send a request without waiting; its id.

        Raises
        ------
        zmq.ZMQError: it cannot be sent now.
        """
        full = {
            "msg_id": os.urandom(16).hex(),
            "msg_type": kind,
            "session": self._session,
            "username": "",
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": "5.3",
        }
        full.update(header)
        parts = [json.dumps(part).encode() for part in (full, {}, metadata or {}, content)]
        frames = [_DELIMITER, self._sign(parts), *parts]
        socket.send_multipart(frames, self._zmq.NOBLOCK)
        return full["msg_id"]

    def read(self, frames):
        """The id of the request that a message belongs to, its kind, and its content, a dict.

        None where it is not signed with the kernel's key, or is no message.
        """
        try:
            start = frames.index(_DELIMITER) + 1
            parts = frames[start + 1 : start + 1 + _PARTS]
            if not hmac.compare_digest(frames[start], self._sign(parts)):
                return None
            header, parent, _, content = map(json.loads, parts)
            if not isinstance(content, dict):
                return None
            return parent.get("msg_id"), header["msg_type"], content
        except Exception:  # whatever the user's own kernel says, the agent lives on
            return None

    def _sign(self, parts):
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest().encode()
