"""What the API server refuses, told apart and told in one line."""

from __future__ import annotations

import json

import pytest

from jupyter_gpu_share.engines.kubernetes.api import (
    PODS,
    SLICES,
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    KubernetesError,
    NotFound,
    QuotaExceeded,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unsettled,
)
from jupyter_gpu_share.engines.kubernetes.api._errors import error_of
from jupyter_gpu_share.errors import EngineError

WHAT = "create pods in team"


def body(message: str, reason: str = "") -> bytes:
    """A ``Status``."""
    return json.dumps({"kind": "Status", "reason": reason, "message": message}).encode()


RIGHTS = (
    'pods is forbidden: User "system:serviceaccount:team:alice" cannot create resource "pods" in '
    'API group "" in the namespace "team"'
)
QUOTA = (
    'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: '
    "requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2"
)
CHANGED = "the object has been modified; please apply your changes to the latest version"


@pytest.mark.parametrize(
    ("code", "message", "kind", "words"),
    [
        (400, "bad label", Invalid, f"Kubernetes refused to {WHAT} (bad label)."),
        (401, "Unauthorized", Unauthorized, "renew the token or kubeconfig"),
        (403, RIGHTS, Forbidden, f"may not {WHAT} in Kubernetes ({RIGHTS}). The administrator"),
        (403, "", Forbidden, f"may not {WHAT} in Kubernetes. The administrator"),
        (
            403,
            QUOTA,
            QuotaExceeded,
            "used up: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2,",
        ),
        (403, "exceeded quota", QuotaExceeded, "used up: exceeded quota. End a kernel"),
        (
            403,
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged',
            Forbidden,
            'The cluster\'s rules do not allow to create pods in team (pods "x" is forbidden',
        ),
        (
            403,
            'pods "x" is forbidden: failed quota: cpu: must specify limits.cpu for: kernel',
            Forbidden,
            "rules do not allow",
        ),
        # As Gatekeeper says it.
        (
            403,
            (
                'admission webhook "validation.gatekeeper.sh" denied the request: [latest] the tag '
                "latest cannot be used"
            ),
            Forbidden,
            "rules do not allow to create pods in team (admission webhook",
        ),
        *(
            (code, message, Unsettled, f"could not {WHAT} now ({message}). Try again")
            for code, message in (
                (409, f'Operation cannot be fulfilled on resourcequotas "q": {CHANGED}'),
                (
                    409,
                    (
                        "Operation cannot be fulfilled on clusterresourcequotas.quota.openshift.io "
                        f'"q": {CHANGED}'
                    ),
                ),
                (403, 'pods "x" is forbidden: status unknown for quota: q, resources: limits.cpu'),
                (
                    403,
                    (
                        'pods "x" is forbidden: error looking up service account team/default: '
                        'serviceaccount "default" not found'
                    ),
                ),
            )
        ),
        (
            403,
            (
                'pods "x" is forbidden: error looking up service account team/none: serviceaccount '
                '"none" not found'
            ),
            Forbidden,
            "rules do not allow",
        ),
        (404, 'pods "x" not found', NotFound, 'no such object: create pods in team (pods "x"'),
        (405, "no", KubernetesError, "Kubernetes answered 405"),
        (409, "changed", Conflict, "it exists or has changed"),
        (410, "too old", Expired, "read again"),
        (422, "spec: Invalid value", Invalid, "refused to create pods in team (spec: Invalid"),
        (429, "slow down", TooManyRequests, "asked to wait"),
        (500, "etcd", ServerTrouble, "a problem of its own: 500 at create pods in team (etcd)"),
        (503, "", ServerTrouble, "a problem of its own: 503"),
    ],
)
def test_each_kind_has_its_words(
    code: int, message: str, kind: type[KubernetesError], words: str
) -> None:
    error = error_of(code, body(message), WHAT)
    assert type(error) is kind
    assert words in str(error)
    assert error.detail == message
    assert isinstance(error, EngineError)


def test_a_name_that_is_taken_is_a_conflict_of_its_own() -> None:
    error = error_of(409, body('pods "x" already exists', "AlreadyExists"), WHAT)
    assert type(error) is AlreadyExists
    assert isinstance(error, Conflict)


def test_the_time_to_wait_is_kept() -> None:
    assert error_of(429, body("x"), WHAT, retry_after=7.0).retry_after == 7.0
    assert error_of(503, body("x"), WHAT, retry_after=7.0).retry_after == 7.0
    assert error_of(404, body("x"), WHAT, retry_after=7.0).retry_after is None


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"<html>\n<title>Bad  gateway</title>", "<html> <title>Bad gateway</title>"),
        (b"\xff\xfe", "��"),
        (b"[1]", "[1]"),
        (b"", ""),
        (body("several\nlines\tof words"), "several lines of words"),
        (body("x" * 10_000), "x" * 499 + "…"),
    ],
)
def test_whatever_comes_is_one_line(sent: bytes, detail: str) -> None:
    error = error_of(502, sent, WHAT)
    assert error.detail == detail
    assert "\n" not in str(error)


# -- where objects are -----------------------------------------------------------------------


def test_paths() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("team") == "/api/v1/namespaces/team/pods"
    assert PODS.path("team", "a") == "/api/v1/namespaces/team/pods/a"
    assert SLICES.path(None, "a") == "/apis/resource.k8s.io/v1/resourceslices/a"
    assert SLICES.path("team", "a") == SLICES.path(None, "a")
    with pytest.raises(ValueError, match="without a namespace"):
        PODS.path(None, "a")
