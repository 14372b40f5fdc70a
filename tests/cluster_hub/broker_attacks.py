"""What a program in a user's terminal sends to the broker, with all that such a program has."""

from __future__ import annotations

#: To begin such a program with. ``ask`` returns status and decoded body, whatever the status is.
ASK = """
import json, os, urllib.request
from urllib.error import HTTPError, URLError

broker, own = os.environ["JUPYTER_GPU_SHARE_BROKER"], os.environ["JUPYTERHUB_API_TOKEN"]

def ask(method, path, body=None, headers={}, token=own, base=broker):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, method=method, data=data, headers=headers)
    if token:
        request.add_header("Authorization", "token " + token)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, text = answer.status, answer.read()
    except HTTPError as error:
        status, text = error.code, error.read()
    except (URLError, OSError) as error:
        return 0, str(error)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()
"""

#: Everything that the API can do to a kernel, as who has its id, attempt and process would ask.
KERNEL_CALLS = """
keys = {
    "key": "0" * 32, "signature_scheme": "hmac-sha256",
    "curve_publickey": "0" * 40, "curve_secretkey": "0" * 40,
}
start = {
    "attempt": "f" * 32, "size": "1/8", "info": {"kernel_name": "python3", "path": None},
    "pod": {"language": "python", "flags": [], "hash_seed": "", "keys": keys},
}
named = {"attempt": attempt}
share = "/v1/shares/" + kernel
calls = [
    ("GET", share + "/connection", None),
    ("GET", share + "/log?lines=10", None),
    ("POST", share + "/adopt", {**named, "before": instance}),
    ("POST", share + "/adopt", {"attempt": "f" * 32, "before": instance}),
    ("POST", share + "/settle", named),
    ("POST", share + "/release", named),
    ("POST", share + "/take", named),
    ("POST", share + "/withdraw", named),
    ("POST", share + "/change", {**named, "size": "1/8", "dry_run": False}),
    ("PATCH", share, {**named, "path": "stolen.ipynb"}),
    ("POST", share + "/let-go", named),
    ("POST", share + "/leaving", {**named, "grace": 1}),
    ("DELETE", share + "?attempt=" + attempt, None),
    ("DELETE", share + "?attempt=" + "f" * 32, None),
]
forged = {
    "Gpu-Share-Instance": instance, "Gpu-Share-User": user, "Gpu-Share-Server": "",
    "X-Forwarded-User": user, "X-Remote-User": user, "Remote-User": user,
    "Cookie": "jupyterhub-user-" + user + "=1",
}
"""
