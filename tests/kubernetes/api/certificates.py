"""Certificates of servers and clients, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


@dataclass(frozen=True)
class Authority:
    """Signs itself. ``certificate`` is also the server's own: of 127.0.0.1 and kube.example."""

    certificate: Path
    key: Path

    @property
    def server(self) -> ssl.SSLContext:
        """For a server with this certificate; it looks at clients' certificates of the same."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.certificate))
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def issue(self, folder: Path) -> str:
        """Write a client's ``client.crt`` and ``client.key``; returns the serial number."""
        names = [str(folder / f"client.{end}") for end in ("key", "csr", "crt")]
        key, request, certificate = names
        _openssl(
            "req", "-new", "-nodes", *_CURVE, "-subj", "/CN=alice", "-keyout", key, "-out", request
        )
        ca = ["-CA", str(self.certificate), "-CAkey", str(self.key)]
        _openssl("x509", "-req", "-days", "2", "-in", request, "-out", certificate, *ca)
        return _openssl("x509", "-noout", "-serial", "-in", certificate).strip().partition("=")[2]


def make_authority(folder: Path, name: str) -> Authority:
    """A new one; that of ``elsewhere`` names another host."""
    made = Authority(folder / f"{name}.crt", folder / f"{name}.key")
    hosts = "DNS:other.example" if name == "elsewhere" else "IP:127.0.0.1,DNS:kube.example"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    _openssl("req", "-x509", "-nodes", "-days", "2", *_CURVE, *subject, *files)
    return made


def _openssl(*command: str) -> str:
    done = subprocess.run(["openssl", *command], check=True, capture_output=True, text=True)
    return done.stdout
