"""Comes under a memory limit of the GPU's driver, then becomes the command that it is given.

Run as ``python -I -S join.py SOCKET GROUP COMMAND…``. No line of the command runs without it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

_NOT_JOINED = 97  # as client.NOT_JOINED; nothing is imported here
_PATIENCE = 20.0


def main() -> int:
    """Do so; the exit code where it did not come to that."""
    path, group, *command = sys.argv[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            connection.sendall(json.dumps({"do": "join", "group": group}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    if answer.get("ok") is not True:
        why = answer.get("error") or "no answer"
        sys.stderr.write(f"gpu-share: the driver's memory limit was not reached: {why}\n")
        return _NOT_JOINED
    for each in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, the command may not
        signal.signal(each, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the kernelspec says
    except OSError as error:
        sys.stderr.write(f"gpu-share: {command[0]} cannot be run: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main())
