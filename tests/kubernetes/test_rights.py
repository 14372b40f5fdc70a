"""The Roles of ``etc/kubernetes`` and what the package says that it needs are the same."""

from __future__ import annotations

import json

from manifests import FOLDER, KERNEL_ACCOUNT, documents, rights

from jupyter_gpu_share.engines.kubernetes import _doctor
from jupyter_gpu_share.engines.kubernetes._kept import GPUS, HOLDERS


def test_the_doctor_looks_for_the_rights_that_the_roles_grant() -> None:
    needed = {
        (verb, resource.plural)
        for resource, verbs in (*_doctor._NEEDED, _doctor._NEEDED_BY_DRA)
        for verb in verbs
    }
    (shared,) = documents("components/shared/role.yaml")
    assert rights(shared) == needed
    base, _ = documents("base/role.yaml")
    more = {
        ("get", "secrets"),
        ("get", "pods/log"),
        ("get", "persistentvolumeclaims"),
        ("list", "events"),
    }
    assert rights(base) == needed | more


def test_what_is_looked_at_may_be_listed_and_watched() -> None:
    """With the right to list alone each look lists all pods of the cluster."""
    granted = set()
    for overlay in ("cluster-read", "cluster-read-pods"):
        for item in documents(f"overlays/{overlay}/role.yaml"):
            granted |= rights(item) if "rules" in item else set()
    for plural in (*GPUS, *HOLDERS):
        assert {("list", plural), ("watch", plural)} <= granted


def test_nothing_is_granted_by_a_star_and_nothing_at_all_to_kernels() -> None:
    granting = 0
    for path in FOLDER.rglob("*.yaml"):
        for item in documents(str(path.relative_to(FOLDER))):
            for rule in item.get("rules") or []:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]], path
                granting += 1
            assert KERNEL_ACCOUNT not in json.dumps(item.get("subjects", [])), path
    assert granting
