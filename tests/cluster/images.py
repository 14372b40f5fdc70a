"""Images without a registry: root file systems packed as OCI archives, which ctr imports."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSE = "localhost/pause:1"
#: Debian with Python and ipykernel, for user 1000; pods name it with ``imagePullPolicy: Never``.
KERNEL = "localhost/kernel:1"
KERNEL_CONFIG = {
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan"],
    "WorkingDir": "/home/jovyan",
    "User": "1000:1000",
}

DEBIAN = "bookworm"
DEBIAN_PYTHON = "3.11"
#: The launcher of gateway_provisioners, the peer in measurements, encrypts with pycryptodomex.
REQUIREMENTS = ("ipykernel==7.4.0", "pycryptodomex==3.24.2", "typing_extensions>=4.6")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")


def make_kernel_root(run: Callable[..., None], root: Path) -> None:
    """Fill ``root`` with what kernels need; ``run`` runs a command or raises."""
    run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", DEBIAN, root)
    # The root's own Python has no pip: this one's chooses for the other interpreter.
    machine = platform.machine()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    for tag in ("2_28", "2_17", "2_12", "2_5"):
        pip += ["--platform", f"manylinux_{tag}_{machine}"]
    pip += ["--platform", f"manylinux2014_{machine}"]
    pip += ["--implementation", "cp", "--python-version", DEBIAN_PYTHON]
    site = f"usr/local/lib/python{DEBIAN_PYTHON}/dist-packages"
    run(*pip, "--target", root / site, *REQUIREMENTS)
    run("chroot", root, "/usr/sbin/useradd", "--uid", "1000", "--create-home", "jovyan")
    run("chroot", root, "python3", "-m", "compileall", "-q", f"/{site}")
    run("chroot", root, "python3", "-c", "import ipykernel.kernelapp, Cryptodome.Cipher.AES")
    for name in _NOT_NEEDED:
        shutil.rmtree(root / name)
    for package in (root / "var/cache/apt").rglob("*.*"):
        package.unlink()


def pack(root: Path, name: str, config: dict[str, Any], out: Path) -> None:
    """Write a folder as an image of one layer under ``name``."""
    layer = out.with_suffix(".layer")
    subprocess.run(
        ["tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-cf", layer, "."], check=True
    )
    try:
        with layer.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        described = _descriptor("layer.v1.tar", digest.hexdigest(), layer.stat().st_size)
        _write(layer, described, name, config, out)
    finally:
        layer.unlink()


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    media = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": size}


def _write(
    layer: Path, described: dict[str, Any], name: str, config: dict[str, Any], out: Path
) -> None:
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return _descriptor(kind, digest, len(data))

    image = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", image),
        "layers": [described],
    }
    listed = blob("manifest.v1+json", manifest)
    listed["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    with tarfile.open(out, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        index = {"schemaVersion": 2, "manifests": [listed]}
        _add(archive, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            _add(archive, f"blobs/sha256/{digest}", data)
        archive.add(layer, f"blobs/sha256/{described['digest'].partition(':')[2]}")


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
