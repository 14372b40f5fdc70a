"""What is said at the end: to the kernel, so that it can tidy up, and to whoever asks later."""

import os

from gpu_share_kernel import own_client

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
    client = own_client.OwnClient(zmq, folder)
    socket = client.connect("control")
    client.send(socket, "shutdown_request", {"restart": False})
    return socket


def leave_word(text):
    """Tell whoever looks at the pod when it is over. The file is there in pods only."""
    if os.path.exists(_TERMINATION_LOG):
        try:
            with open(_TERMINATION_LOG, "w") as file:
                file.write(text)
        except OSError:
            pass
