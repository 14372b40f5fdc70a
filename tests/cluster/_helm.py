"""Helm, for tests that ask for it. To render a chart it needs no cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .build import KUBERNETES, Part, Workshop, _build_part, _go_module, locked

HELM = "4.3.1"
_MODULE = "helm.sh/helm/v4"


def build_helm(shop: Workshop, out: Path) -> None:
    """The program, of the cluster's own client libraries: what is compiled for one serves both."""
    own = "v0." + KUBERNETES.partition(".")[2]
    manifest = _go_module(_MODULE, f"v{HELM}", "GoMod").read_text()
    named = dict(line.split()[:2] for line in manifest.splitlines() if "\tk8s.io/" in line)
    tree = [path for path, version in named.items() if version == named["k8s.io/client-go"]]
    requires = {_MODULE: f"v{HELM}", **dict.fromkeys(tree, own)}
    shop.module(requires, [f"{_MODULE}/cmd/helm"])
    flags = f"-s -w -X {_MODULE}/internal/version.version=v{HELM}"
    shop.go_build(out / "helm", f"{_MODULE}/cmd/helm", flags=flags)


PART = Part("helm", f"Helm {HELM}", build_helm, (HELM, KUBERNETES))


def helm_program() -> Path:
    """Where Helm is; it is built first where it is missing, by one process at a time."""
    if not PART.folder.is_dir():
        with locked("build-helm", "another process builds Helm; waiting for it", patience=1800):
            if not PART.folder.is_dir():
                _build_part(PART)
    return PART.folder / "helm"


def helm(
    home: Path, *words: str | Path, kubeconfig: Path | None = None, patience: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run Helm, which keeps what it writes in ``home``; the caller looks at how it ended."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    if kubeconfig is not None:
        env["KUBECONFIG"] = str(kubeconfig)
    return subprocess.run(
        [helm_program(), *words],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
