"""gateway_provisioners, in an environment of its own: its pins need not fit ours."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.cluster import KERNEL_IMAGE, Cluster

VERSION = "0.5.0"
#: What both sides have is the same on both sides.
SHARED = ("jupyter_client", "kubernetes", "pyzmq", "tornado")
KERNEL_NAME = "peer"

_FILES = "peer-launcher"
_MOUNT = "/opt/peer"
#: Its launcher and its listener lie in two folders, and are put together in the image.
_IN_POD = (
    "bootstrap/bootstrap-kernel.sh",
    "python/scripts/launch_ipykernel.py",
    "shared/scripts/server_listener.py",
)
_ON_SERVER = ("launch_kubernetes.py", "kernel-pod.yaml.j2")


def interpreter() -> Path:
    """The Python that has gateway_provisioners; made when it is first needed."""
    wanted = [f"gateway_provisioners[k8s]=={VERSION}"]
    wanted += [f"{name}=={version(name)}" for name in SHARED]
    key = json.dumps([*wanted, sys.version])
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = base / "jupyter-gpu-share" / "peers" / digest
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        print(f"installing gateway_provisioners {VERSION} …", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        made.touch()
    return python


def launchers() -> Path:
    """The folder with its scripts for servers and for images."""
    where = "import gateway_provisioners; print(gateway_provisioners.__path__[0])"
    done = subprocess.run([interpreter(), "-c", where], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()) / "kernel-launchers"


def prepare(cluster: Cluster, namespace: str, folder: Path) -> dict[str, str]:
    """Make what its kernels need in the namespace, and a kernelspec in ``folder``.

    Returns the environment of its server, all of which it hands on to its pods.
    """
    source = launchers()
    files = {Path(path).name: (source / path).read_text() for path in _IN_POD}
    # The image has Debian's Python, which goes by the name of python3 only.
    name = "bootstrap-kernel.sh"
    files[name] = files[name].replace("\tpython ", "\tpython3 ").replace("/python/scripts/", "/")
    cluster.api.create(
        f"/api/v1/namespaces/{namespace}/configmaps",
        {"metadata": {"name": _FILES}, "data": files},
    )
    _write_kernelspec(source, folder / KERNEL_NAME)
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/jovyan",
        "LANG": "C.UTF-8",
        "KUBECONFIG": str(cluster.kubeconfig),
        "GP_USE_INCLUSTER_CONFIG": "False",
        "GP_RESPONSE_IP": cluster.host_address,
        "GP_IMAGE_NAME": KERNEL_IMAGE,
        "KERNEL_LAUNCHERS_DIR": _MOUNT,
        "KERNEL_NAMESPACE": namespace,
        # It lets nobody of the name root start kernels.
        "KERNEL_USERNAME": "alice",
        "KERNEL_VOLUMES": json.dumps([{"name": "launcher", "configMap": {"name": _FILES}}]),
        "KERNEL_VOLUME_MOUNTS": json.dumps([{"name": "launcher", "mountPath": _MOUNT}]),
    }


def _write_kernelspec(source: Path, folder: Path) -> None:
    """A kernelspec as its own command writes it, whose pod starts the launcher by a command."""
    scripts = folder / "scripts"
    scripts.mkdir(parents=True)
    for name in _ON_SERVER:
        shutil.copy(source / "kubernetes" / "scripts" / name, scripts)
    template = scripts / "kernel-pod.yaml.j2"
    # As a shell's child: a kernel whose parent is process 1 believes its parent has died.
    command = json.dumps(["bash", "-c", f"bash {_MOUNT}/bootstrap-kernel.sh; exit $?"])
    line = '  - image: "{{ kernel_image }}"\n'
    text = template.read_text()
    assert line in text
    template.write_text(text.replace(line, f"{line}    command: {command}\n"))
    placeholders = ("kernel-id", "port-range", "response-address", "public-key")
    argv = [str(interpreter()), str(scripts / "launch_kubernetes.py")]
    for name in (*placeholders, "transport-encryption"):
        argv += [f"--{name}", "{" + name.replace("-", "_") + "}"]
    spec: dict[str, Any] = {
        "language": "python",
        "display_name": "Python of gateway_provisioners",
        "metadata": {
            "supported_encryption": ["curve"],
            "kernel_provisioner": {
                "provisioner_name": "kubernetes-provisioner",
                "config": {"image_name": KERNEL_IMAGE},
            },
        },
        "argv": argv,
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=2))
