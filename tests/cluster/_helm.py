"""Helm, for tests that ask for it: the administrator's program, which needs no cluster to render."""

from __future__ import annotations

from pathlib import Path

from .build import KUBERNETES, Part, Workshop, _build_part, _go_module, locked

HELM = "4.3.1"
_MODULE = "helm.sh/helm/v4"


def build_helm(shop: Workshop, out: Path) -> None:
    """The program, of the same client libraries as the cluster: what is compiled serves both."""
    own = "v0." + KUBERNETES.partition(".")[2]
    words = [line.split() for line in _go_module(_MODULE, f"v{HELM}", "GoMod").read_text().splitlines()]
    tree = sorted({word[0] for word in words if word and word[0].startswith("k8s.io/") and word[1].startswith("v0.37.")})
    shop.module({_MODULE: f"v{HELM}", **dict.fromkeys(tree, own)}, [f"{_MODULE}/cmd/helm"])
    # Helm tells a chart the version of Kubernetes that its client library has.
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
