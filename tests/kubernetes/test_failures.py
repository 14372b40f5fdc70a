"""What keeps a pod from running, or ended it: each cause is told from the others, in one line.

``pod_shapes.json`` holds pods as Kubernetes 1.37 left them on the cluster of ``tests/cluster``,
without what says nothing about their end. What cannot be brought about there is written after the
sources of Kubernetes, and stands here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_share.engines.kubernetes import _autoscaler as autoscaler
from jupyter_gpu_share.engines.kubernetes import _kueue as kueue
from jupyter_gpu_share.engines.kubernetes import _preparing as preparing
from jupyter_gpu_share.engines.kubernetes._failures import (
    Cause,
    end_of,
    end_of_lease,
    end_of_process,
    hindrance,
    no_place,
    unschedulable,
)

SHAPES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("pod_shapes.json").read_text()
)


def failed(reason: str = "", message: str = "", **status: Any) -> dict[str, Any]:
    """A pod that has ended, and its container with it."""
    given = {"phase": "Failed", "reason": reason, "message": message}
    return {"spec": {"containers": [{"name": "kernel"}]}, "status": given | status}


def ended(code: int, reason: str = "Error", message: str = "", name: str = "kernel") -> Any:
    """The state of a container that has ended."""
    told = {"exitCode": code, "reason": reason, "message": message}
    return {"name": name, "state": {"terminated": told}}


def disrupted(reason: str, phase: str = "Running") -> dict[str, Any]:
    """A pod that something in the cluster takes away."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    return {"status": {"phase": phase, "conditions": [condition]}}


# -- recorded ----------------------------------------------------------------------------------

HINDRANCES = {
    "image-never": ("image", "'localhost/none:1' cannot be had (ErrImageNeverPull): "),
    "image-pull": ("image", "'localhost/none:1' cannot be had (ErrImagePull): "),
    "image-invalid": ("image", "'localhost/Not-A-Name:1' cannot be had (InvalidImageName): "),
    "init-image": ("image", "'localhost/none:1' cannot be had (ErrImageNeverPull): "),
    "config-secret": ("config", 'container (CreateContainerConfigError): secret "none" not found'),
}
ENDS = {
    "start-error": ("config", 'exec: "no-such-python": executable file not found in $PATH', 128),
    "start-permission": ("config", 'exec: "/etc/passwd": permission denied', 128),
    "config-mount": (
        "config",
        "container (StartError): error during container init: error mount",
        128,
    ),
    "exit-code": ("ended", "has ended with code 7: first.", 7),
    "exit-zero": ("ended", "has ended with code 0.", 0),
    "exit-137": ("killed", "was killed from outside (SIGKILL)", 137),
    "oom": ("oom", "want of memory, its limit is 40Mi (of the machine, not of the GPU)", 137),
    "deadline": ("deadline", "c.KubernetesEngine.longest_life", 143),
    "evicted-disk": ("evicted", 'Usage of EmptyDir volume "v" exceeds the limit "1Mi".', 137),
    "init-failed": (
        "config",
        "The container 'aside' beside the kernel has failed with code 3: ",
        1,
    ),
    "side-first": ("ended", "has ended with code 9.", 9),
    "out-of-cpu": ("node", "had no room after all (OutOfcpu): ", 1),
    "node-affinity": ("node", "had no room after all (NodeAffinity): ", 1),
}
DELETIONS = {
    "deleted": ("deleted", "was deleted in the cluster, by an administrator or by the scheduler"),
    "evicted-api": ("evicted", "was evicted, as when a node is emptied for maintenance"),
    "preempted": ("reclaimed", "was reclaimed for work of higher priority"),
    "tainted": ("node", "node was lost, or taken out of service"),
}


def test_every_shape_is_looked_at() -> None:
    assert SHAPES.keys() == {*HINDRANCES, *ENDS, *DELETIONS, "unschedulable"}


@pytest.mark.parametrize("name", HINDRANCES)
def test_what_keeps_a_pod_from_coming_up(name: str) -> None:
    cause = hindrance(SHAPES[name])
    kind, words = HINDRANCES[name]
    assert cause is not None
    assert (cause.kind, cause.code) == (kind, 1)
    assert words in cause.text
    assert end_of(SHAPES[name], None) is None, "it has not ended"


@pytest.mark.parametrize("name", ENDS)
def test_what_ended_a_pod(name: str) -> None:
    kind, words, code = ENDS[name]
    for cause in (end_of(SHAPES[name], None), end_of(None, SHAPES[name])):
        assert cause is not None
        if cause.kind == "deleted" and name == "exit-137":
            continue  # one that is gone may have been killed by that
        assert (cause.kind, cause.code) == (kind, code)
        assert words in cause.text
    assert hindrance(SHAPES[name]) is None


@pytest.mark.parametrize("name", DELETIONS)
def test_what_took_a_pod_away(name: str) -> None:
    """Its container was killed in the end, and that is no cause of its own."""
    kind, words = DELETIONS[name]
    for cause in (end_of(SHAPES[name], None), end_of(None, SHAPES[name])):
        assert cause is not None
        assert (cause.kind, cause.code) == (kind, 143)
        assert words in cause.text
    assert hindrance(SHAPES[name]) is None


def test_a_pod_without_a_place_has_the_schedulers_words() -> None:
    pod = SHAPES["unschedulable"]
    words = unschedulable(pod)
    assert words is not None
    assert "1 Insufficient cpu" in words
    nodes = "0/1 nodes are available: 1 Insufficient cpu."
    assert no_place(words) == f"The cluster has no place for it: {nodes}"
    assert (hindrance(pod), end_of(pod, None)) == (None, None)


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"unschedulable"}))
def test_only_a_pod_without_a_place_waits_for_one(name: str) -> None:
    assert unschedulable(SHAPES[name]) is None


# -- written after the sources -----------------------------------------------------------------

SOURCES: list[tuple[dict[str, Any], str, str, int]] = [
    (failed("Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi"),
     "evicted", "The node was low on resource: memory.", 137),
    (failed("Evicted"), "evicted", "it was short of memory or disk", 137),
    (failed("NodeLost"), "node", "lost or shut down (NodeLost)", 143),
    (failed("Terminated", "Pod was terminated in response to imminent node shutdown.",
            containerStatuses=[ended(0)]), "node", "lost or shut down (Terminated)", 143),
    (failed("NodeShutdown", "Pod was rejected"), "node", "(NodeShutdown)", 143),
    (failed("Preempting", "Preempted to admit a critical pod"), "reclaimed", "priority", 143),
    (failed("UnexpectedAdmissionError", "Allocate failed due to no healthy devices\npresent"),
     "node", "(UnexpectedAdmissionError): Allocate failed due to no healthy devices present.", 1),
    (failed("OutOfnvidia.com/gpu", "not enough"), "node", "had no room after all", 1),
    (failed("TopologyAffinityError", "no"), "node", "had no room after all", 1),
    (failed("TaintToleration", "node(s) had taints"), "node", "no room after", 1),
    (failed("SomethingNew", "in\nwords"), "ended", "has ended (SomethingNew: in words)", 1),
    (failed(), "ended", "has ended (Failed)", 1),
    ({"status": {"phase": "Succeeded"}}, "ended", "has ended (Succeeded)", 1),
    (failed(containerStatuses=[ended(137, "ContainerStatusUnknown", "could not be located")]),
     "node", "node has lost it, as after a reboot", 143),
    (failed(containerStatuses=[ended(127, "ContainerCannotRun", "no\nsuch file")]),
     "config", "make the kernel's container (ContainerCannotRun): no such file. Tell", 127),
    (failed(containerStatuses=[ended(1, "Error", "Traceback:\n  a\nValueError: b\n \n")]),
     "ended", "has ended with code 1: ValueError: b.", 1),
    (failed(containerStatuses=[ended(0, "Completed", "no Jupyter server was heard for 600 s")],
            phase="Succeeded"),
     "ended", "with code 0: no Jupyter server was heard for 600 s.", 0),
    (failed(containerStatuses=[{"name": "kernel", "lastState": ended(9)["state"]}]),
     "ended", "with code 9", 9),
    (failed(containerStatuses=[ended(0, name="aside"), ended(137, "OOMKilled")]),
     "oom", "for want of memory (of the machine", 137),
    (failed(containerStatuses=[ended(5, name="aside"), {"name": "kernel", "state": {}}]),
     "config", "'aside' beside the kernel has failed with code 5.", 1),
    *((disrupted(reason, "Failed"), kind, words, 143) for reason, kind, words in (
        ("PreemptionByScheduler", "reclaimed", "was reclaimed for work of higher priority"),
        ("DeletionByTaintManager", "node", "was lost, or taken out of service"),
        ("DeletionByPodGC", "node", "The kernel's node is gone"),
        ("DeletionByDeviceTaintManager", "node", "GPU was taken out of service"),
        ("EvictionByEvictionAPI", "evicted", "emptied for maintenance"),
        ("SomethingNew", "evicted", "was evicted (SomethingNew)"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pod", "kind", "words", "code"), SOURCES, ids=lambda value: str(value)[:60]
)
def test_what_else_may_end_a_pod(pod: dict[str, Any], kind: str, words: str, code: int) -> None:
    cause = end_of(pod, None)
    assert cause is not None
    assert (cause.kind, cause.code) == (kind, code)
    assert words in cause.text


def test_of_a_pod_that_the_node_has_ended_the_node_knows_why() -> None:
    pod = disrupted("TerminationByKubelet", "Failed")
    pod["status"] |= {"reason": "Evicted", "message": "low on memory " * 100}
    cause = end_of(pod, None)
    assert cause is not None
    assert cause.text.startswith("The node put the kernel out: low on memory low on memory ")
    assert "…. Restart it; a larger memory request" in cause.text
    assert len(cause.text) < 400, "in so many words as fit into a line"


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", None])
def test_a_pod_that_has_not_ended(phase: str | None) -> None:
    pod = disrupted("DeletionByTaintManager")
    pod["status"]["phase"] = phase
    # It may live on for a while, and the node may come back.
    assert end_of(pod, None) is None
    pod["status"]["reason"] = "NodeLost"
    cause = end_of(pod, None)
    assert cause is not None
    assert (cause.kind, cause.code) == ("node", 143)


def test_a_pod_that_is_gone_and_of_which_nothing_is_known() -> None:
    for last in (None, {}, {"status": {}}, {"status": {"phase": "Running"}}):
        cause = end_of(None, last)
        assert cause is not None
        assert cause.kind == "deleted"
    # That its process was killed is how a deletion ends.
    cause = end_of(None, failed(containerStatuses=[ended(137)]))
    assert cause is not None
    assert cause.kind == "deleted"
    assert end_of({}, None) is None
    assert end_of({"status": None}, None) is None


def test_a_lease_that_is_gone() -> None:
    assert end_of_lease(None, None).kind == "reclaimed"
    assert "taken away in the cluster" in end_of_lease(None, {"status": {}}).text
    assert end_of_lease(None, disrupted("DeletionByTaintManager")).kind == "node"
    # It has ended there, and nobody has deleted it.
    here = {"metadata": {}, "status": {"phase": "Failed"}}
    assert "has ended on its node" in end_of_lease(here, None).text
    leaving = {"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}, "status": here["status"]}
    assert "taken away in the cluster" in end_of_lease(leaving, None).text
    assert end_of_lease(None, SHAPES["preempted"]).text == end_of(None, SHAPES["preempted"]).text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        *((reason, "image") for reason in ("ImagePullBackOff", "ImageInspectError",
                                            "RegistryUnavailable", "SignatureValidationFailed")),
        *((reason, "config") for reason in ("CreateContainerError", "RunContainerError")),
        ("CreateContainerConfigError", "config"),
        ("ContainerCreating", None),
        ("PodInitializing", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_a_container_waits_for(reason: str, kind: str | None) -> None:
    status = {"name": "kernel", "image": "i", "state": {"waiting": {"reason": reason}}}
    cause = hindrance({"status": {"containerStatuses": [status]}})
    assert (cause and cause.kind) == kind


def waits(reason: str, message: str = "", name: str = "kernel") -> dict[str, Any]:
    """A container that is not there yet."""
    waiting = {"reason": reason, "message": message}
    return {"name": name, "image": "i", "state": {"waiting": waiting}}


@pytest.mark.parametrize(
    ("reason", "message", "passing"),
    [
        ("ErrImagePull", "pull QPS exceeded", True),
        ("ErrImagePull", "unexpected status from HEAD request: 503 Service Unavailable", True),
        ("ErrImagePull", "dial tcp: i/o timeout", True),
        ("ImagePullBackOff", 'Back-off pulling image "i"', True),
        ("ImagePullBackOff", 'Back-off pulling image "i": ErrImagePull: not found', False),
        ("ErrImagePull", "manifest for i not found: manifest unknown", False),
        ("ErrImagePull", "failed to authorize: 401 Unauthorized", False),
        ("ErrImagePull", "no match for platform in manifest", False),
        ("ErrImagePull", "pull access denied", False),
        ("InvalidImageName", "", False),
        ("ErrImageNeverPull", "", False),
        ("CreateContainerError", "context deadline exceeded", True),
        ("CreateContainerError", 'name "a" is reserved for "b"', True),
        (
            "CreateContainerError",
            (
                "failed to generate spec: failed to inject CDI devices: unresolvable CDI devices "
                "k8s.gpu.nvidia.com/claim=1"
            ),
            True,
        ),
        ("CreateContainerError", "no command specified", False),
        ("CreateContainerConfigError", 'secret "none" not found', False),
        (
            "CreateContainerConfigError",
            "failed to sync secret cache: timed out waiting for the condition",
            True,
        ),
    ],
)
def test_what_the_node_tries_again(reason: str, message: str, passing: bool) -> None:
    cause = hindrance({"status": {"containerStatuses": [waits(reason, message)]}})
    assert cause is not None
    assert cause.passing is passing


@pytest.mark.parametrize(
    ("reason", "message", "advice"),
    [
        # Of gRPC, as older nodes have it.
        ("ErrImagePull", "rpc error: code = Unknown desc = failed to pull: 503 Service Unavailable",
         "Try again later"),
        ("ErrImagePull", "rpc error: code = Unknown desc = toomanyrequests: unknown: rate limit",
         "Try again later"),
        ("ErrImagePull", 'failed to resolve "r.io/unknown/denied:404": 502 Bad Gateway',
         "Try again later"),
        ("ErrImagePull", "reading manifest 1 in r.io/forbidden/x: dial tcp: no route to host",
         "Try again later"),
        ("ErrImagePull", "HEAD https://r.io/v2/unknown/manifests/not-found: timeout",
         "Try again later"),
        ("ErrImagePull", f'failed to resolve "r.io/{"x" * 300}:1": not found', "Check its name"),
        ("ErrImagePull", "rpc error: code = NotFound desc = r.io/x:1: not found", "Check its name"),
        ("ErrImagePull", "reading manifest 1 in r.io/x: manifest unknown", "Check its name"),
        ("InvalidImageName", "", "Check its name"),
        ("ErrImageNeverPull", "", "Check its name"),
        ("ErrImagePull", "x509: certificate signed by unknown authority", "Tell the administrator"),
        ("SignatureValidationFailed", "not found", "Tell the administrator"),
    ],
)  # fmt: skip
def test_what_is_to_be_done_about_an_image_follows_from_the_cause(
    reason: str, message: str, advice: str
) -> None:
    cause = hindrance({"status": {"containerStatuses": [waits(reason, message)]}})
    assert cause is not None
    assert cause.text == f"{cause.what} {advice}{cause.text.partition(advice)[2]}"
    assert cause.passing is (advice == "Try again later")
    others = {"Try again later", "Check its name", "Tell the administrator"} - {advice}
    assert not [each for each in others if each in cause.text]
    assert advice not in cause.what, "while the node tries again there is nothing to do"


@pytest.mark.parametrize(
    ("message", "passed_on"),
    [
        ('open https://cdn.q.io/sha256/aa?Expires=9&Signature=c2VjcmV0&Key=K: 403 Forbidden',
         "open https://cdn.q.io/sha256/aa?… 403 Forbidden"),
        ('Get "https://s3.aws/x?X-Amz-Signature=c2VjcmV0": timeout',
         'Get "https://s3.aws/x?…": timeout'),
        ("HEAD https://bob:c2VjcmV0@r.io/v2/: 503", "HEAD https://r.io/v2/: 503"),
        ("is there no image x@sha256:12? It is not found", None),
    ],
)  # fmt: skip
def test_words_of_the_cluster_are_passed_on_without_secrets(
    message: str, passed_on: str | None
) -> None:
    passed_on = passed_on or message
    cause = hindrance({"status": {"containerStatuses": [waits("ErrImagePull", message)]}})
    assert cause is not None
    assert passed_on in cause.text
    event = {"reason": "FailedMount", "message": message}
    assert passed_on in preparing.told_by({}, [event])
    event = {"reason": "NotTriggerScaleUp", "message": f"pod didn't trigger scale-up: {message}"}
    assert passed_on in autoscaler.told_by([event])
    event = {"reason": "Pending", "message": message}
    assert passed_on in kueue.waits_for({"metadata": {"labels": {kueue.QUEUE: "q"}}}, [event])


# -- what stands beside the kernel -------------------------------------------------------------

RUNS = {"name": "aside", "state": {"running": {}}}


def beside(kernel: Any, other: Any = RUNS, first: bool = False, **status: Any) -> dict[str, Any]:
    """A pod with two containers, one of them the kernel's, in either order."""
    names = ["aside", "kernel"] if first else ["kernel", "aside"]
    told = [other, kernel] if first else [kernel, other]
    return {
        "metadata": {},
        "spec": {"containers": [{"name": name} for name in names]},
        "status": {"phase": "Running", "containerStatuses": told} | status,
    }


@pytest.mark.parametrize("first", [True, False])
def test_the_kernels_container_decides_that_it_has_ended(first: bool) -> None:
    for state, kind, code in (
        (ended(137, "OOMKilled"), "oom", 137),
        (ended(0, "Completed", "no Jupyter server was heard for 600 s"), "ended", 0),
        (ended(7), "ended", 7),
    ):
        cause = end_of(beside(state, first=first), None)
        assert cause is not None
        assert (cause.kind, cause.code) == (kind, code)
    going = {"name": "kernel", "state": {"running": {}}}
    for other in (ended(1, name="aside"), ended(0, name="aside")):
        assert end_of(beside(going, other, first), None) is None, "the kernel runs on"
    pod = beside(ended(137), first=first)
    pod["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    cause = end_of(pod, None)
    assert cause is not None
    assert cause.kind == "deleted"


@pytest.mark.parametrize("first", [True, False])
def test_only_what_the_kernel_needs_hinders_it(first: bool) -> None:
    comes = waits("ContainerCreating")
    for reason in ("ErrImagePull", "InvalidImageName", "CreateContainerError"):
        assert hindrance(beside(comes, waits(reason, name="aside"), first)) is None
        assert hindrance(beside(waits(reason), first=first)) is not None
        before = {"initContainerStatuses": [waits(reason, name="prepare")]}
        assert hindrance(beside(comes, first=first, **before)) is not None


PROXY = {
    "name": "istio-proxy",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
    "lastState": {"terminated": {"exitCode": 2, "message": "no such issuer"}},
}


@pytest.mark.parametrize("first", [True, False])
def test_a_sidecar_that_does_not_come_up_hinders_the_kernel_and_later_no_more(first: bool) -> None:
    """A native one: what follows it is not made before it is up."""
    cause = hindrance(beside(waits("PodInitializing"), first=first, initContainerStatuses=[PROXY]))
    assert cause is not None
    assert cause.passing, "the node begins it again"
    assert "'istio-proxy' beside the kernel has failed with code 2: no such issuer." in cause.what
    kernel = {"name": "kernel", "state": {"running": {}}}
    for state in (PROXY, waits("RunContainerError", name="istio-proxy")):
        assert hindrance(beside(kernel, first=first, initContainerStatuses=[state])) is None


# -- whatever a cluster says -------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), max_size=400) | st.sampled_from(
    ["Evicted", "OOMKilled", "exec: ", "a\nb", "x" * 300]
)
maybe = st.none() | words
states = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "waiting": st.fixed_dictionaries({}, optional={"reason": maybe, "message": maybe}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)}, optional={"reason": maybe, "message": maybe}
        ),
    },
)
statuses = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["kernel", "aside"])},
        optional={"state": states, "lastState": states, "image": words},
    ),
    max_size=2,
)
pods = st.fixed_dictionaries(
    {
        "status": st.fixed_dictionaries(
            {"phase": st.sampled_from(["Pending", "Running", "Failed", "Succeeded"])},
            optional={
                "reason": maybe,
                "message": maybe,
                "containerStatuses": st.none() | statuses,
                "initContainerStatuses": statuses,
                "conditions": st.lists(
                    st.fixed_dictionaries(
                        {"type": st.just("DisruptionTarget"), "status": st.just("True")},
                        optional={"reason": words},
                    ),
                    max_size=1,
                ),
            },
        )
    }
)


@given(pods)
def test_all_that_is_said_is_one_line_with_an_end(pod: dict[str, Any]) -> None:
    ends = pod["status"]["phase"] in ("Failed", "Succeeded")
    assert (end_of(pod, None) is not None) or not ends
    causes: list[Cause | None] = [end_of(pod, None), end_of(None, pod), hindrance(pod)]
    for cause in filter(None, causes):
        assert cause.text.splitlines() == [cause.text]
        assert len(cause.text) < 800
        assert cause.text.endswith((".", "…."))
        assert 0 <= cause.code <= 255


@given(words)
def test_the_schedulers_words_are_one_line_too(message: str) -> None:
    said = no_place(message)
    assert said.splitlines() == [said]
    assert said.endswith(".")
    assert "preemption: " not in said


@pytest.mark.parametrize(
    ("code", "why", "words"),
    [
        (-9, "oom", "want of memory"),
        (-15, "terminated", "told to end from outside"),
        (1, "ipykernel cannot be imported", "could not run: ipykernel cannot be imported."),
        (-11, "", "ended by SIGSEGV."),
        (-200, "", "ended by signal 200."),
        (3, "", "ended with code 3."),
    ],
)
def test_a_kernel_that_ended_in_its_pod(code: int, why: str, words: str) -> None:
    assert words in end_of_process(code, why)
