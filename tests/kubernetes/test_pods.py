"""Pods as dicts, from typed and checked values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from plans import NAME, body, kernel, plan

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._check import PodRefused
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes.backends import Rendered
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

#: Ours, in the order of their names, and what is delivered beside them.
FILES = [
    *(
        f"gpu_share_kernel/{name}.py"
        for name in (
            "__init__",
            "agent",
            "asked",
            "attribution",
            "background",
            "caps",
            "chosen",
            "contexts",
            "cuda",
            "cuda_signs",
            "digests",
            "driver",
            "farewell",
            "interrupts",
            "limits",
            "over_ipv6",
            "own_client",
            "parking",
            "processes",
            "readings",
            "simulated",
            "snapshot/__init__",
            "snapshot/__main__",
            "snapshot/aliases",
            "snapshot/alike",
            "snapshot/arrays",
            "snapshot/classes",
            "snapshot/command",
            "snapshot/devices",
            "snapshot/hooks",
            "snapshot/kinds",
            "snapshot/libraries",
            "snapshot/modules",
            "snapshot/owned",
            "snapshot/pickles",
            "snapshot/prints",
            "snapshot/process",
            "snapshot/proof",
            "snapshot/records",
            "snapshot/restoring",
            "snapshot/saving",
            "snapshot/session",
            "snapshot/settings",
            "snapshot/shells",
            "snapshot/streams",
            "snapshot/texts",
            "snapshot/unpickles",
            "snapshot/ways",
            "snapshot/words",
            "subshells",
            "vacate",
            "zygote",
        )
    ),
    "sitecustomize.py",
    *(
        f"delivered/cloudpickle/{path.name}"
        for path in sorted(Path(cloudpickle.__file__).parent.glob("*.py"))
    ),
]
ITEMS = [{"key": name.replace("/", ".."), "path": name} for name in FILES]
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": NAME,
        "labels": {
            "app.kubernetes.io/managed-by": "jupyter-gpu-share",
            "gpu-share.jupyter.org/server": "alice",
            "gpu-share.jupyter.org/kernel": "k-1",
            "gpu-share.jupyter.org/part": "kernel",
        },
        "annotations": {
            "gpu-share.jupyter.org/attempt": "attempt-1",
            "gpu-share.jupyter.org/kernel-id": "k-1",
            "gpu-share.jupyter.org/kernel-name": "python3",
            "gpu-share.jupyter.org/path": "a.ipynb",
            "gpu-share.jupyter.org/size": "1/4",
            "gpu-share.jupyter.org/user": "alice",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
            "linkerd.io/inject": "disabled",
            "sidecar.istio.io/inject": "false",
        },
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "server", "uid": "u-1"}],
    },
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 120,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "kernel",
                "image": "registry.example.org/team/kernel:1",
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-m", "gpu_share_kernel.agent"],
                "args": ["/opt/gpu-share/connection"],
                "env": [
                    {"name": "PYTHONPATH", "value": "/opt/gpu-share/files"},
                    {"name": "PYTHONUNBUFFERED", "value": "1"},
                    {"name": "SHARED_BY", "value": "tests"},
                ],
                "ports": [
                    {"name": "shell", "containerPort": 52001},
                    {"name": "iopub", "containerPort": 52002},
                    {"name": "stdin", "containerPort": 52003},
                    {"name": "control", "containerPort": 52004},
                    {"name": "hb", "containerPort": 52005},
                    {"name": "agent", "containerPort": 52006},
                ],
                "resources": {
                    "requests": {"cpu": "100m"},
                    "limits": {},
                    "claims": [{"name": "gpu"}],
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {
                        "name": "gpu-share-files",
                        "mountPath": "/opt/gpu-share/files",
                        "readOnly": True,
                    },
                    {
                        "name": "gpu-share-connection",
                        "mountPath": "/opt/gpu-share/connection",
                        "readOnly": True,
                    },
                ],
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
        "volumes": [
            {
                "name": "gpu-share-files",
                "configMap": {
                    "name": "gpu-share-files-1",
                    "items": ITEMS,
                    "defaultMode": 0o444,
                },
            },
            {
                "name": "gpu-share-connection",
                "secret": {"secretName": NAME, "defaultMode": 0o444},
            },
        ],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": f"{NAME}-gpu"}],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    },
}


# -- the pod -----------------------------------------------------------------------------------


def test_the_whole_pod() -> None:
    assert body() == POD


def test_every_pod_is_its_own() -> None:
    plan_of_both = plan(rendered=Rendered(limits={"a/b": "1"}, labels={"c": "d"}))
    one = body(**vars(plan_of_both))
    for part in (one["metadata"]["labels"], one["metadata"]["annotations"], one["spec"]):
        part.clear()
    assert body(**vars(plan_of_both))["spec"]["containers"][0]["resources"]["limits"] == {
        "a/b": "1"
    }
    assert body() == POD


def without(pod: dict[str, Any], *path: Any) -> Any:
    """A pod without one of its parts, and that part."""
    copy = json.loads(json.dumps(pod))
    at = copy
    for step in path[:-1]:
        at = at[step]
    return copy, at.pop(path[-1], None)


C = ("spec", "containers", 0)


@pytest.mark.parametrize(
    ("fields", "path", "value"),
    [
        ({"image": "localhost:5000/a/b-c__d@sha256:" + "0" * 64}, (*C, "image"), None),
        ({"pull_policy": "Never"}, (*C, "imagePullPolicy"), "Never"),
        ({"python": "/opt/conda/bin/python3.12", "flags": ("-Xfrozen_modules=off", "-B")},
         (*C, "command"),
         ["/opt/conda/bin/python3.12", "-Xfrozen_modules=off", "-B", "-m",
          "gpu_share_kernel.agent"]),
        ({"service_account": "kernels"}, ("spec", "serviceAccountName"), "kernels"),
        ({"deadline": 60}, ("spec", "activeDeadlineSeconds"), 60),
        ({"grace": 30}, ("spec", "terminationGracePeriodSeconds"), 30),
        ({"working_dir": "/home/jovyan"}, (*C, "workingDir"), "/home/jovyan"),
        ({"cpu": "2"}, (*C, "resources", "requests", "cpu"), "2"),
        ({"memory": "1Gi"}, (*C, "resources", "requests", "memory"), "1Gi"),
        ({"memory_limit": "2Gi"}, (*C, "resources", "limits", "memory"), "2Gi"),
        ({"size": Size.parse("2x1/2")}, ("metadata", "annotations", "gpu-share.jupyter.org/size"),
         "2x1/2"),
        ({"owner": None}, ("metadata", "ownerReferences"), None),
        ({"files": "gpu-share-files-2"}, ("spec", "volumes", 0, "configMap", "name"),
         "gpu-share-files-2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_one_field_makes_one_difference(
    fields: dict[str, Any], path: tuple[Any, ...], value: Any
) -> None:
    rest, found = without(body(**fields), *path)
    assert rest == without(POD, *path)[0]
    assert found == fields.get("image", value)


def test_what_a_size_adds_is_where_it_belongs() -> None:
    rendered = Rendered(
        limits={"nvidia.com/gpu": "1"},
        annotations={"a": "b"},
        own_names={"group": "-group"},
        labels={"queue": "q"},
        node_selector={"pool": "gpus"},
        env={"E": "1"},
        scheduler="own-scheduler",
        priority_class="high",
        runtime_class="nvidia",
    )
    pod = body(rendered=rendered, claims={})
    spec = pod["spec"]
    assert kernel(pod)["resources"] == {
        "requests": {"cpu": "100m"},
        "limits": {"nvidia.com/gpu": "1"},
    }
    assert "resourceClaims" not in spec
    assert kernel(pod)["env"][2:] == [{"name": "E", "value": "1"}]
    assert pod["metadata"]["labels"]["queue"] == "q"
    assert pod["metadata"]["annotations"]["a"] == "b"
    assert pod["metadata"]["annotations"]["group"] == f"{NAME}-group"
    assert spec["nodeSelector"] == {"pool": "gpus"}
    assert (spec["schedulerName"], spec["priorityClassName"], spec["runtimeClassName"]) == (
        "own-scheduler",
        "high",
        "nvidia",
    )


# -- what administrators add -------------------------------------------------------------------


def test_settings_and_a_patch_are_laid_over_the_pod_one_after_the_other() -> None:
    engine = KubernetesEngine(
        environment={"HF_HOME": "/cache", "B": "1"},
        volumes=[{"name": "cache", "emptyDir": {}}],
        volume_mounts=[{"name": "cache", "mountPath": "/cache"}],
        node_selector={"pool": "interactive", "zone": "a"},
        tolerations=[{"key": "team", "operator": "Exists"}],
        pod_patch={
            "spec": {
                "enableServiceLinks": None,
                "nodeSelector": {"zone": None},
                "containers": [
                    {"name": "kernel", "env": [{"name": "B", "$patch": "delete"}], "tty": True}
                ],
            }
        },
    )
    pod = body(patches=engine.additions, tolerations=engine.tolerations)
    assert "enableServiceLinks" not in pod["spec"], "the patch can take away what we have set"
    assert pod["spec"]["nodeSelector"] == {"pool": "interactive"}
    assert pod["spec"]["tolerations"] == [
        {"key": "team", "operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists"},
    ]
    assert pod["spec"]["volumes"] == [*POD["spec"]["volumes"], {"name": "cache", "emptyDir": {}}]
    assert kernel(pod)["env"] == [*kernel(POD)["env"], {"name": "HF_HOME", "value": "/cache"}]
    assert kernel(pod)["volumeMounts"][2:] == [{"name": "cache", "mountPath": "/cache"}]
    assert kernel(pod)["tty"] is True


def test_without_settings_nothing_is_added() -> None:
    assert body(patches=KubernetesEngine().additions) == POD


@pytest.mark.parametrize("patch", [{"spec": []}, {"spec": {"volumes": [{"emptyDir": {}}]}}])
def test_a_patch_that_is_none_is_refused_in_one_line(patch: dict[str, Any]) -> None:
    with pytest.raises(PodRefused, match=r"^The additions .* cannot be merged into a pod: .*\.$"):
        body(patches=[patch])
    with pytest.raises(EngineError, match="pod_patch cannot be merged"):
        body(patches=KubernetesEngine(node_selector={"a": "b"}, pod_patch=patch).additions)


# -- what clients and administrators write -----------------------------------------------------

#: What would mean something to a template, a shell, YAML or JSON.
FRAGMENTS = [
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "$(id)",
    "`id`",
    "a; rm -rf /",
    "a\n  hostNetwork: true",
    'a", "hostNetwork": true, "b": "',
    "!!python/object/apply:os.system ['id']",
    "&anchor *alias",
    "../../etc/passwd",
    "a\0b",
    "\u202eabc",
    "\ud800",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("text", FRAGMENTS, ids=lambda text: repr(text)[:30])
def test_what_a_client_writes_is_a_note_and_nothing_else(text: str) -> None:
    """Its path and its kernel's name go into annotations only, and cannot be endless there."""
    pod = body(notes={"kernel_name": text, "path": text, "user": text})
    notes = pod["metadata"]["annotations"]
    for key in ("kernel-name", "path", "user"):
        said = notes.pop(f"gpu-share.jupyter.org/{key}")
        assert len(said) <= 1024
        assert said.encode().decode() == said
    expected, _ = without(POD, "metadata", "annotations")
    assert without(pod, "metadata", "annotations")[0] == expected
    assert notes == {
        key: value
        for key, value in POD["metadata"]["annotations"].items()
        if key.rpartition("/")[2] not in ("kernel-name", "path", "user")
    }


def test_the_administrator_decides_what_else_may_disturb_a_pod() -> None:
    wish = {"karpenter.sh/do-not-disrupt": "false", "sidecar.istio.io/inject": None}
    notes = body(patches=({"metadata": {"annotations": wish}},))["metadata"]["annotations"]
    assert notes["karpenter.sh/do-not-disrupt"] == "false"
    assert "sidecar.istio.io/inject" not in notes
    assert notes["linkerd.io/inject"] == "disabled"
    with pytest.raises(EngineError, match="size is this package's own"):
        body(patches=({"metadata": {"annotations": {"gpu-share.jupyter.org/size": "1"}}},))


@pytest.mark.parametrize("text", [t for t in FRAGMENTS if 0 < len(t) < 100 and t != "\ud800"])
def test_an_id_that_a_client_has_chosen_is_a_label_and_a_note(text: str) -> None:
    meta = Labels("alice", text, "attempt-1").metadata(NAME, "kernel")
    assert re.fullmatch(r"x-[0-9a-f]{32}", meta["labels"]["gpu-share.jupyter.org/kernel"])
    assert meta["annotations"]["gpu-share.jupyter.org/kernel-id"] == text
    assert body(labels=Labels("alice", text, "attempt-1"))["spec"] == POD["spec"]


@pytest.mark.parametrize("kernel_id", ["", "\ud800", "x" * 1025], ids=lambda text: repr(text)[:30])
def test_an_id_that_could_not_be_read_back_is_refused(kernel_id: str) -> None:
    with pytest.raises(EngineError, match=r"is not the id of a kernel; start a new one\.$"):
        Labels("alice", kernel_id, "attempt-1")


@pytest.mark.parametrize(
    "image",
    [
        *(text for text in FRAGMENTS if len(text) < 1000),  # a long one may be a name
        "Kernel",
        "kernel:",
        ":1",
        "kernel ",
        "kernel\n",
        "-kernel",
        "kernel@sha256:12",
        "kernel@md5:" + "0" * 64,
        "https://example.org/kernel",
        "a//b",
        "k\u00e9rnel",
        "kernel:" + "x" * 200,
    ],
    ids=lambda text: repr(text)[:30],
)
def test_what_is_no_image_is_refused(image: str) -> None:
    with pytest.raises(PodRefused, match=r"^c\.KubernetesEngine\.image: .* is not the name of"):
        plan(image=image)


@pytest.mark.parametrize(
    "python", ["", "-c", "python3 -c", "sh;", "$(id)", "a\n", "a b", "pyth\u00f6n"]
)
def test_what_is_no_interpreter_is_refused(python: str) -> None:
    with pytest.raises(PodRefused, match=r"^c\.KubernetesEngine\.python: .* is not an interpreter"):
        plan(python=python)


@pytest.mark.parametrize(
    "flag",
    ["", "-", "-c", "-m", "-E", "-I", "-S", "-i", "-W", "-X", "-x", "-V", "-h", "--version",
     "-cpass", "-mos", "-X a", "-Wa\n", "-X$(id)", "script.py", "-ucimport", "-sS", "-Xa;b"],
)  # fmt: skip
def test_a_flag_that_would_change_what_runs_is_refused(flag: str) -> None:
    with pytest.raises(PodRefused, match="cannot be used in a pod; take it out of the kernelspec"):
        plan(flags=("-B", flag))


def test_flags_that_a_kernelspec_may_have() -> None:
    plain = "-B -O -OO -P -R -b -bb -d -q -s -u -v -vvv -Wignore -Werror::DeprecationWarning"
    flags = (*plain.split(), "-Xdev", "-Xfrozen_modules=off")
    assert kernel(body(flags=flags))["command"] == [
        "python3",
        *flags,
        "-m",
        "gpu_share_kernel.agent",
    ]


def test_the_agent_has_the_hash_seed_of_its_kernel() -> None:
    """Without it the agent could not become the kernel, and would start another process."""
    (container,) = body(hash_seed="7")["spec"]["containers"]
    assert {"name": "PYTHONHASHSEED", "value": "7"} in container["env"]
    (container,) = body()["spec"]["containers"]
    assert "PYTHONHASHSEED" not in {each["name"] for each in container["env"]}
