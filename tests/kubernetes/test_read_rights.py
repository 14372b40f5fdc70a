"""The rights by which a server sees GPUs: the manifests grant what the backends read."""

from __future__ import annotations

import pytest
from manifests import documents, rights

from jupyter_gpu_share.engines.kubernetes.backends import BACKENDS

ROLES = {
    name: documents(f"overlays/{name}/role.yaml")[0]
    for name in ("cluster-read", "cluster-read-pods")
}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_each_backend_may_list_and_follow_what_it_reads(backend: type) -> None:
    granted = rights(ROLES["cluster-read"])
    needed = backend.reads | backend.uses  # type: ignore[attr-defined]
    if "pods" in needed:
        granted |= rights(ROLES["cluster-read-pods"])
    assert {(verb, what) for verb in ("list", "watch") for what in needed} <= granted


def test_nothing_is_granted_that_no_backend_reads() -> None:
    granted = set().union(*map(rights, ROLES.values()))
    read = set().union(*(backend.reads | backend.uses for backend in BACKENDS.values()))
    # Queues of KAI are read one by one.
    assert {what for _, what in granted} - read == {"queues"}
