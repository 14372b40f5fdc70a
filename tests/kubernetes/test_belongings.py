"""What belongs to a kernel's pod: its Secret, its claims, and the files that all pods share."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plans import CLAIM, NAME, body
from waiting import PATIENCE

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes._pods import (
    AGENT_PORT,
    PORTS,
    Labels,
    claim_body,
    connection_of,
    files_body,
    owner,
    secret_body,
)

LABELS = Labels("alice", "k-1", "attempt-1")


def labels(part: str) -> dict[str, str]:
    """Those of an object of this kernel."""
    return {
        "app.kubernetes.io/managed-by": "jupyter-gpu-share",
        "gpu-share.jupyter.org/server": "alice",
        "gpu-share.jupyter.org/kernel": "k-1",
        "gpu-share.jupyter.org/part": part,
    }


# -- the Secret --------------------------------------------------------------------------------


def connection(**fields: Any) -> Connection:
    given = {
        "transport": "tcp",
        "ip": "10.1.2.3",
        "ports": PORTS,
        "key": b"the session's key",
        "curve_publickey": "p" * 40,
        "curve_secretkey": "s" * 40,
    }
    return Connection(**(given | fields))


def stored(secret: dict[str, Any]) -> dict[str, Any]:
    """As the API server gives back what was written as ``stringData``."""
    text = secret["stringData"]
    data = {name: base64.b64encode(value.encode()).decode() for name, value in text.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": secret["metadata"], "data": data}


def test_the_whole_secret() -> None:
    mine = {"apiVersion": "v1", "kind": "Pod", "name": NAME, "uid": "u-2"}
    secret = secret_body(NAME, LABELS, connection(), watchdog=600.0, grace=120, owned_by=mine)
    text = secret.pop("stringData")
    assert secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": NAME,
            "labels": labels("connection"),
            "annotations": {
                "gpu-share.jupyter.org/attempt": "attempt-1",
                "gpu-share.jupyter.org/kernel-id": "k-1",
            },
            "ownerReferences": [mine],
        },
        "type": "Opaque",
        "immutable": True,
    }
    keys = {
        "key": "the session's key",
        "signature_scheme": "hmac-sha256",
        "curve_publickey": "p" * 40,
        "curve_secretkey": "s" * 40,
    }
    ports = {f"{channel}_port": port for channel, port in PORTS.items()}
    assert {name: json.loads(value) for name, value in text.items()} == {
        "connection.json": {"transport": "tcp", "ip": "0.0.0.0"} | ports | keys,
        "agent.json": {"ip": "0.0.0.0", "port": AGENT_PORT, "watchdog": 600.0, "grace": 120} | keys,
    }


def test_without_an_owner_and_without_encryption() -> None:
    plain = connection(curve_publickey=None, curve_secretkey=None)
    secret = secret_body(NAME, LABELS, plain, watchdog=5.0, grace=120, owned_by=None)
    assert "ownerReferences" not in secret["metadata"]
    assert "curve" not in json.dumps(secret["stringData"])


@pytest.mark.parametrize(
    "fields",
    [{}, {"curve_publickey": None, "curve_secretkey": None}, {"signature_scheme": "hmac-sha512"},
     {"key": "schl\u00fcssel".encode()}],
)  # fmt: skip
def test_what_a_secret_holds_is_read_back(fields: dict[str, Any]) -> None:
    before = connection(**fields)
    secret = secret_body(NAME, LABELS, before, watchdog=5.0, grace=120, owned_by=None)
    assert connection_of(stored(secret), before.ip) == before


def test_keys_are_shown_nowhere_else() -> None:
    assert "session" not in repr(connection())
    assert "ssss" not in repr(connection())


@pytest.mark.parametrize(
    "change",
    [
        {"key": None},
        {"key": 5},
        {"key": ["a"]},
        {"shell_port": None},
        {"shell_port": "many"},
        {"shell_port": 1e999},
        {"hb_port": {}},
        {"signature_scheme": None},
        {"signature_scheme": 5},
        {"curve_publickey": 5},
        {"curve_secretkey": ["s"]},
    ],
    ids=repr,
)
def test_a_secret_with_something_else_in_it_is_none_of_ours(change: dict[str, Any]) -> None:
    secret = secret_body(NAME, LABELS, connection(), watchdog=5.0, grace=120, owned_by=None)
    wire = json.loads(secret["stringData"]["connection.json"]) | change
    for missing in (False, True):
        if missing:
            name = next(iter(change))
            if name.startswith("curve"):
                return
            wire.pop(name)
        secret["stringData"]["connection.json"] = json.dumps(wire)
        with pytest.raises(ValueError, match="holds no connection of a kernel"):
            connection_of(stored(secret), "10.1.2.3")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"a"', "[" * 100_000], ids=len)
def test_a_secret_that_holds_no_object_is_none_of_ours(text: str) -> None:
    data = {"connection.json": base64.b64encode(text.encode()).decode()}
    for secret in ({"data": data}, {}, {"data": None}, {"data": {"connection.json": "%%%"}}):
        with pytest.raises(ValueError, match="holds no connection of a kernel"):
            connection_of(secret, "10.1.2.3")


# -- claims, files, owners ---------------------------------------------------------------------


def test_the_whole_claim() -> None:
    mine = owner(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "uid": "u-2"}, "spec": {}}
    )
    assert mine == {"apiVersion": "v1", "kind": "Pod", "name": NAME, "uid": "u-2"}
    assert claim_body(f"{NAME}-gpu", LABELS, CLAIM, owned_by=mine) == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "name": f"{NAME}-gpu",
            "labels": labels("claim"),
            "annotations": {
                "gpu-share.jupyter.org/attempt": "attempt-1",
                "gpu-share.jupyter.org/kernel-id": "k-1",
            },
            "ownerReferences": [mine],
        },
        "spec": CLAIM,
    }
    lease = claim_body(f"{NAME}-l", LABELS, CLAIM, owned_by=None, part="lease")
    assert lease["metadata"]["labels"]["gpu-share.jupyter.org/part"] == "lease"
    assert "ownerReferences" not in lease["metadata"]


def test_the_files_are_named_after_their_content_and_fit_into_a_config_map() -> None:
    files = files_body()
    data = files.pop("data")
    assert re.fullmatch(r"gpu-share-files-[0-9a-f]{16}", files["metadata"].pop("name"))
    assert files == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "labels": {
                "app.kubernetes.io/managed-by": "jupyter-gpu-share",
                "gpu-share.jupyter.org/part": "files",
            }
        },
        "immutable": True,
    }
    assert {"gpu_share_kernel..agent.py", "sitecustomize.py"} <= set(data)
    assert "delivered..cloudpickle..cloudpickle.py" in data
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in data)
    assert sum(map(len, map(str.encode, data.values()))) < 2**20 / 2
    data["sitecustomize.py"] += "#"
    assert files_body()["data"] != data, "nobody's changes reach the next one"


def test_the_files_work_as_a_pod_has_them(tmp_path: Path) -> None:
    data = files_body()["data"]
    for item in body()["spec"]["volumes"][0]["configMap"]["items"]:
        path = tmp_path / item["path"]
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(data.pop(item["key"]))
    assert not data, "all of them are there"
    # Without the packages of this environment: cloudpickle has to be the one that was delivered.
    code = (
        "import sys, gpu_share_kernel.agent as agent, sitecustomize\n"
        "from gpu_share_kernel.snapshot import pickles\n"
        "assert 'cloudpickle' not in sys.modules\n"
        "print(agent.__file__, sitecustomize.__file__, pickles.cloudpickle().__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.split() == [
        str(tmp_path / "gpu_share_kernel" / "agent.py"),
        str(tmp_path / "sitecustomize.py"),
        str(tmp_path / "delivered" / "cloudpickle" / "__init__.py"),
    ]
