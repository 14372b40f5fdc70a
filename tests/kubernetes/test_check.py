"""What no pod of ours may be, whatever an administrator adds to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from plans import NAME, RICH, body, kernel
from pod_security import breaks

from jupyter_gpu_share.engines.kubernetes._check import PodRefused, check_pod
from jupyter_gpu_share.engines.kubernetes._merge import merge

OTHER_SECRET = "gpu-share-0123456789abcdef"
PLAIN = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def patched(*patches: Any) -> dict[str, Any]:
    """The pod with additions, once it has passed the check."""
    return body(rendered=RICH, patches=patches)


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def meta(**fields: Any) -> dict[str, Any]:
    return {"metadata": fields}


def of_kernel(**fields: Any) -> dict[str, Any]:
    return spec(containers=[{"name": "kernel", **fields}])


def beside(**fields: Any) -> dict[str, Any]:
    """Another container, that keeps to the standard but for the fields."""
    return spec(containers=[{"name": "side", "image": "i", "securityContext": PLAIN, **fields}])


def before(**fields: Any) -> dict[str, Any]:
    """The same of an init container."""
    return spec(
        initContainers=[{"name": "first", "image": "i", "securityContext": PLAIN, **fields}]
    )


def context(**fields: Any) -> dict[str, Any]:
    """Of a container beside the kernel's."""
    return beside(securityContext=PLAIN | fields)


def volume(**kinds: Any) -> dict[str, Any]:
    return spec(volumes=[{"name": "v", **kinds}])


#: A patch that breaks a rule of the restricted Pod Security Standard, and what is said.
UNSAFE: list[tuple[dict[str, Any], str]] = [
    (spec(hostNetwork=True), "hostNetwork is not allowed"),
    (spec(hostPID=True), "hostPID is not allowed"),
    (spec(hostIPC=True), "hostIPC is not allowed"),
    *(
        (meta(annotations={f"container.apparmor.security.beta.kubernetes.io/{name}": value}),
         f"{name}={value} is not allowed")
        for name, value in (("kernel", "unconfined"), ("kernel", "runtime/default-not"), ("a", ""))
    ),
    (volume(hostPath={"path": "/"}), "a volume of kind hostPath is not allowed"),
    (volume(nfs={"server": "a", "path": "/"}), "a volume of kind nfs is not allowed"),
    (spec(securityContext={"runAsNonRoot": False}), "the pod: running as root is not allowed"),
    (spec(securityContext={"runAsNonRoot": None}), "the pod: runAsNonRoot must stay true"),
    (spec(securityContext={"runAsUser": 0}), "the pod: running as root is not allowed"),
    (spec(securityContext={"seccompProfile": None}), "the pod: seccompProfile must be"),
    (spec(securityContext={"seccompProfile": {"type": "Unconfined"}}),
     "the pod: seccompProfile must be"),
    (spec(securityContext=None), "the pod: runAsNonRoot must stay true"),
    (spec(securityContext={"sysctls": [{"name": "a", "value": "1"}]}), "the pod: sysctls are not"),
    (spec(securityContext={"seLinuxOptions": {"type": "spc_t"}}), "the pod: these seLinuxOptions"),
    (spec(securityContext={"appArmorProfile": {"type": "Unconfined"}}),
     "the pod: an unconfined appArmorProfile"),
    (spec(securityContext={"windowsOptions": {"hostProcess": True}}), "the pod: hostProcess"),
    (of_kernel(securityContext={"privileged": True}), "container 'kernel': privileged is not"),
    (of_kernel(securityContext={"allowPrivilegeEscalation": True}),
     "container 'kernel': allowPrivilegeEscalation must be false"),
    (of_kernel(securityContext={"allowPrivilegeEscalation": None}),
     "container 'kernel': allowPrivilegeEscalation must be false"),
    (of_kernel(securityContext={"capabilities": {"drop": []}}),
     "container 'kernel': all capabilities must be dropped"),
    (of_kernel(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
     "container 'kernel': the capabilities SYS_ADMIN are not allowed"),
    (of_kernel(securityContext=None), "container 'kernel': allowPrivilegeEscalation must be"),
    (of_kernel(ports=[{"containerPort": 52001, "hostPort": 80}]), "'kernel': hostPort is not"),
    (context(privileged=True), "container 'side': privileged is not allowed"),
    (context(runAsUser=0), "container 'side': running as root is not allowed"),
    (context(runAsNonRoot=False), "container 'side': running as root is not allowed"),
    (context(procMount="Unmasked"), "container 'side': procMount is not allowed"),
    (context(seccompProfile={"type": "Unconfined"}), "container 'side': seccompProfile must be"),
    (context(appArmorProfile={"type": "Unconfined"}), "'side': an unconfined appArmorProfile"),
    (context(windowsOptions={"hostProcess": True}), "container 'side': hostProcess is not"),
    (context(seLinuxOptions={"user": "u"}), "container 'side': these seLinuxOptions"),
    (context(seLinuxOptions={"role": "r"}), "container 'side': these seLinuxOptions"),
    (context(capabilities={"drop": ["NET_RAW"]}), "'side': all capabilities must be dropped"),
    (beside(securityContext=None), "container 'side': allowPrivilegeEscalation must be false"),
    (before(securityContext={"privileged": True}), "container 'first': privileged is not allowed"),
    (before(ports=[{"containerPort": 1, "hostPort": 1}]), "container 'first': hostPort is not"),
    *(
        (beside(**{probe: {kind: {"host": "10.0.0.1", "port": 1}}}), "a host in a probe or hook")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe")
        for kind in ("httpGet", "tcpSocket")
    ),
    *(
        (beside(lifecycle={hook: {"httpGet": {"host": "h", "port": 1}}}), "a host in a probe")
        for hook in ("postStart", "preStop")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("patch", "said"), UNSAFE, ids=lambda value: str(value)[:60])
def test_what_is_not_safe_is_refused(patch: dict[str, Any], said: str) -> None:
    assert breaks(merge(patched(), patch)), "the standard has such a rule"
    refused(patch, said)


def refused(patch: dict[str, Any], said: str) -> None:
    with pytest.raises(PodRefused) as caught:
        patched(patch)
    text = str(caught.value)
    assert said in text
    assert "\n" not in text
    assert text.startswith("The pod that c.KubernetesEngine describes is refused: ")
    assert text.endswith(". Nothing was created; change the setting.")


MOUNT = {"name": "v", "emptyDir": {}}

#: A patch that would make it another pod than ours, and what is said.
ALIEN: list[tuple[dict[str, Any], str]] = [
    ({"kind": "Job"}, "it has the parts"),
    ({"status": {"phase": "Running"}}, "it has the parts apiVersion, kind, metadata, spec, status"),
    (meta(name="other"), "metadata.name is this package's own"),
    (meta(namespace="kube-system"), "metadata.namespace is this package's own"),
    (meta(generateName="a"), "metadata.generateName is this package's own"),
    (meta(ownerReferences=[{"uid": "u-9", "name": "x"}]), "metadata.ownerReferences is this"),
    (meta(ownerReferences=None), "metadata.ownerReferences is this package's own"),
    (meta(finalizers=["a/b"]), "finalizers are not allowed"),
    (meta(labels={"gpu-share.jupyter.org/server": "b"}), "gpu-share.jupyter.org/server is"),
    (meta(labels={"gpu-share.jupyter.org/kernel": None}), "the label gpu-share.jupyter.org/kernel"),
    (meta(labels={"app.kubernetes.io/managed-by": "x"}), "the label app.kubernetes.io/managed-by"),
    (meta(labels={"queue": "other"}), "the label queue is this package's own"),
    (meta(labels=None), "the label queue is this package's own"),
    (meta(labels={"gpu-share.jupyter.org/more": "x"}), "the prefix gpu-share.jupyter.org/ is"),
    (meta(annotations={"gpu-share.jupyter.org/kernel-id": "k-2"}), "kernel-id is this package's"),
    (meta(annotations={"gpu-share.jupyter.org/size": "1"}), "size is this package's own"),
    (meta(annotations={"gpu-fraction": "1"}), "the annotation gpu-fraction is this package's own"),
    (meta(annotations={"gpu-share.jupyter.org/more": "x"}), "the prefix gpu-share.jupyter.org/ is"),
    (spec(automountServiceAccountToken=True), "automountServiceAccountToken must stay false"),
    (spec(automountServiceAccountToken=None), "automountServiceAccountToken must stay false"),
    (spec(restartPolicy="Always"), "restartPolicy must stay Never"),
    (spec(restartPolicy=None), "restartPolicy must stay Never"),
    (spec(shareProcessNamespace=True), "shareProcessNamespace is not allowed"),
    (spec(ephemeralContainers=[{"name": "e", "securityContext": PLAIN}]), "ephemeral containers"),
    (spec(nodeName="node-1"), "nodeName is not allowed"),
    (spec(resourceClaims=[{"name": "x", "resourceClaimName": "y"}]), "resourceClaims follows"),
    (spec(resourceClaims=[{"name": "gpu", "resourceClaimName": "y"}]), "resourceClaims follows"),
    (spec(resourceClaims=None), "spec.resourceClaims follows from the size"),
    (spec(schedulerName="default-scheduler"), "schedulerName follows from the size"),
    (spec(priorityClassName=None), "priorityClassName follows from the size"),
    (spec(runtimeClassName="runc"), "runtimeClassName follows from the size"),
    (spec(nodeSelector={"pool": "others"}), "the nodeSelector pool follows from the size"),
    (spec(nodeSelector=None), "the nodeSelector pool follows from the size"),
    (spec(volumes=None), "the volume 'gpu-share-files' is this package's own"),
    (spec(volumes=[{"name": "gpu-share-files", "$patch": "delete"}]), "'gpu-share-files' is this"),
    (spec(volumes=[{"name": "gpu-share-files", "configMap": {"name": "a"}}]), "'gpu-share-files'"),
    (spec(volumes=[{"name": "gpu-share-connection", "secret": {"secretName": "mine"}}]),
     "the volume 'gpu-share-connection' is this package's own"),
    (spec(volumes=[{"name": "gpu-share-more", "emptyDir": {}}]), "is named like one of this"),
    (volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}), "a token for the"),
    (volume(secret={"secretName": OTHER_SECRET}), f"the Secret {OTHER_SECRET} may hold the keys"),
    (volume(secret={"secretName": NAME}), f"the Secret {NAME} may hold the keys"),
    (volume(csi={"driver": "d", "nodePublishSecretRef": {"name": OTHER_SECRET}}), OTHER_SECRET),
    (volume(projected={"sources": [{"secret": {"name": OTHER_SECRET}}]}), OTHER_SECRET),
    (volume(emptyDir={}, hostPath={"path": "/"}), "a volume of kind hostPath is not allowed"),
    (volume(), "the volume 'v' needs one kind"),
    (volume(emptyDir={}, configMap={"name": "a"}), "the volume 'v' needs one kind"),
    (spec(containers=[{"name": "kernel", "$patch": "delete"}]), "'kernel' must be there once"),
    (spec(containers=None), "the container 'kernel' must be there once"),
    (of_kernel(command=["sleep", "9"]), "the command of the kernel's container is this package's"),
    (of_kernel(command=None), "the command of the kernel's container is this package's own"),
    (of_kernel(args=["/tmp"]), "the args of the kernel's container is this package's own"),
    (of_kernel(lifecycle={"preStop": {"exec": {"command": ["a"]}}}), "the lifecycle of the"),
    (of_kernel(restartPolicy="Always"), "the restartPolicy of the kernel's container"),
    (of_kernel(restartPolicyRules=[{"action": "Restart"}]), "the restartPolicyRules of the"),
    (of_kernel(volumeMounts=None), "the mount at /opt/gpu-share/files is this package's own"),
    (of_kernel(volumeMounts=[{"mountPath": "/opt/gpu-share/files", "readOnly": False}]),
     "the mount at /opt/gpu-share/files is this package's own"),
    (of_kernel(volumeMounts=[{"mountPath": "/opt/gpu-share/connection", "subPath": "a"}]),
     "the mount at /opt/gpu-share/connection is this package's own"),
    *(
        (merge(spec(volumes=[MOUNT]), of_kernel(volumeMounts=[{"name": "v", "mountPath": path}])),
         f"mounts below /opt/gpu-share are this package's own ({path})")
        for path in ("/opt/gpu-share", "/opt/gpu-share/", "/opt/gpu-share/more", "opt/gpu-share/x",
                     "/opt/./gpu-share/files/sitecustomize.py", "//opt//gpu-share//files",
                     "/opt/other/../gpu-share/files/x", "/../opt/gpu-share")
    ),
    (of_kernel(volumeMounts=[{"name": "gpu-share-connection", "mountPath": "/keys"}]),
     "container 'kernel': the volume 'gpu-share-connection' is this package's own"),
    (beside(volumeMounts=[{"name": "gpu-share-connection", "mountPath": "/keys"}]),
     "container 'side': the volume 'gpu-share-connection' is this package's own"),
    (before(volumeMounts=[{"name": "gpu-share-files", "mountPath": "/files"}]),
     "container 'first': the volume 'gpu-share-files' is this package's own"),
    (of_kernel(env=[{"name": "PYTHONPATH", "value": "/mine"}]), "the variable PYTHONPATH is this"),
    (of_kernel(env=[{"name": "PYTHONPATH", "$patch": "delete"}]), "variable PYTHONPATH is"),
    (of_kernel(env=[{"name": "CUDA_DEVICE_ORDER", "value": "x"}]), "CUDA_DEVICE_ORDER is this"),
    (of_kernel(env=None), "the variable PYTHONPATH is this package's own"),
    *(
        (of_kernel(env=[{"name": name, "value": "all"}]), f"the variable {name} follows")
        for name in ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "JUPYTER_GPU_SHARE_UUID")
    ),
    (beside(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
     "container 'side': the variable NVIDIA_VISIBLE_DEVICES follows from the size"),
    (of_kernel(envFrom=[{"secretRef": {"name": OTHER_SECRET}}]), f"the Secret {OTHER_SECRET} may"),
    (before(envFrom=[{"secretRef": {"name": NAME}}]), f"the Secret {NAME} may hold the keys"),
    (beside(env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "k"}}}]),
     f"the Secret {NAME} may hold the keys"),
    (of_kernel(resources={"claims": []}), "container 'kernel': its claims follow from the size"),
    (of_kernel(resources={"claims": [{"name": "gpu"}, {"name": "x"}]}), "its claims follow from"),
    (of_kernel(resources=None), "container 'kernel': its claims follow from the size"),
    (beside(resources={"claims": [{"name": "gpu"}]}), "container 'side': its claims follow from"),
    (of_kernel(resources={"limits": {"nvidia.com/gpu": "8"}}), "'kernel': nvidia.com/gpu follows"),
    (of_kernel(resources={"limits": {"nvidia.com/gpu": None}}), "'kernel': nvidia.com/gpu follows"),
    (of_kernel(resources={"limits": {"example.com/share": "2"}}), "example.com/share follows from"),
    (of_kernel(resources={"limits": {"nvidia.com/mig-1g.5gb": "1"}}), "mig-1g.5gb follows"),
    (of_kernel(resources={"requests": {"nvidia.com/gpu": "2"}}), "nvidia.com/gpu follows"),
    (of_kernel(resources={"requests": {"nvidia.com/other": "2"}}), "nvidia.com/other follows from"),
    (beside(resources={"limits": {"nvidia.com/gpu": "1"}}), "'side': nvidia.com/gpu follows"),
    (before(resources={"limits": {"nvidia.com/gpu": "1"}}), "'first': nvidia.com/gpu follows"),
]  # fmt: skip


@pytest.mark.parametrize(("patch", "said"), ALIEN, ids=lambda value: str(value)[:60])
def test_what_would_be_another_pod_is_refused(patch: dict[str, Any], said: str) -> None:
    refused(patch, said)


def test_all_reasons_are_told_at_once_and_each_of_them_once() -> None:
    with pytest.raises(PodRefused) as caught:
        patched(spec(hostPID=True, hostIPC=True), volume(hostPath={}), volume(hostPath={}))
    said = str(caught.value).split("refused: ")[1].split(". Nothing")[0].split("; ")
    assert said == [
        "hostPID is not allowed",
        "hostIPC is not allowed",
        "a volume of kind hostPath is not allowed",
    ]


SHAPELESS: list[dict[str, Any]] = [
    spec(containers=[{"name": "kernel", "ports": [5]}]),
    spec(containers=[{"name": "kernel", "env": [{"name": 5, "value": "x"}]}]),
    spec(volumes=[{"name": 5, "emptyDir": {}}]),
    spec(volumes=[{"name": ["a"], "emptyDir": {}}]),
    of_kernel(volumeMounts=[{"name": "v", "mountPath": 5}]),
    of_kernel(livenessProbe="often"),
    of_kernel(lifecycle={"preStop": "never"}),
    beside(securityContext={"capabilities": {"drop": 5}}),
    beside(securityContext={"seccompProfile": "RuntimeDefault"}),
    beside(resources=5),
    beside(envFrom=[5]),
    meta(annotations={"container.apparmor.security.beta.kubernetes.io/kernel": 5}),
]


@pytest.mark.parametrize("patch", SHAPELESS, ids=lambda value: str(value)[:60])
def test_what_is_not_shaped_like_a_pod_is_refused_in_words(patch: dict[str, Any]) -> None:
    with pytest.raises(PodRefused, match=r"^[^\n]*(refused|cannot be merged)[^\n]*$"):
        patched(patch)


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["spec"].pop("containers"),
        lambda pod: pod["spec"]["containers"].append(kernel(pod)),
        lambda pod: kernel(pod).pop("name"),
        lambda pod: kernel(pod)["env"].append({"name": "PYTHONPATH", "value": "/mine"}),
        lambda pod: pod["spec"].update(initContainers=[copy.deepcopy(kernel(pod))]),
        lambda pod: pod.pop("spec"),
        lambda pod: pod.update(metadata=None),
        lambda pod: pod["spec"].update(volumes={}),
        lambda pod: pod["spec"].update(containers="kernel"),
    ],
)
def test_what_no_patch_makes_is_refused_too(change: Any) -> None:
    pod = patched()
    change(pod)
    with pytest.raises(PodRefused):
        check_pod(pod, patched())


#: What administrators do, and may.
HARMLESS: list[dict[str, Any]] = [
    {},
    spec(imagePullSecrets=[{"name": "registry"}], priority=5, dnsPolicy="Default"),
    spec(nodeSelector={"zone": "a"}, tolerations=[{"operator": "Exists"}], hostNetwork=False),
    spec(securityContext={"runAsUser": 1000, "fsGroup": 100, "supplementalGroups": [5]}),
    spec(securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}),
    spec(terminationGracePeriodSeconds=30, activeDeadlineSeconds=60, enableServiceLinks=None),
    meta(labels={"team": "a"}, annotations={"a/b": "c"}),
    meta(annotations={"container.apparmor.security.beta.kubernetes.io/kernel": "localhost/p"}),
    meta(annotations={"container.apparmor.security.beta.kubernetes.io/kernel": "runtime/default"}),
    spec(volumes=[MOUNT, {"name": "w", "persistentVolumeClaim": {"claimName": "home"}}]),
    volume(secret={"secretName": "mine"}),
    volume(projected={"sources": [{"secret": {"name": "mine"}}, {"configMap": {"name": "c"}}]}),
    volume(csi={"driver": "secrets-store"}),
    merge(spec(volumes=[MOUNT]), of_kernel(volumeMounts=[{"name": "v", "mountPath": "/opt"}])),
    merge(spec(volumes=[MOUNT]), of_kernel(volumeMounts=[{"name": "v", "mountPath": "/opt/gpu"}])),
    of_kernel(env=[{"name": "HF_HOME", "value": "/cache"}], workingDir="/home", tty=True),
    of_kernel(envFrom=[{"secretRef": {"name": "mine"}}, {"configMapRef": {"name": "mine"}}]),
    of_kernel(resources={"limits": {"memory": "8Gi"}, "requests": {"cpu": "2"}}),
    of_kernel(resources={"requests": {"nvidia.com/gpu": "1"}}),
    of_kernel(securityContext={"readOnlyRootFilesystem": True, "runAsUser": 1000}),
    of_kernel(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"]}}),
    of_kernel(readinessProbe={"tcpSocket": {"port": 52006}}),
    beside(lifecycle={"preStop": {"exec": {"command": ["a"]}}}, command=["proxy"]),
    before(restartPolicy="Always"),
    context(seLinuxOptions={"type": "container_t", "level": "s0"}, procMount="Default"),
    context(appArmorProfile={"type": "RuntimeDefault"}, seccompProfile={"type": "RuntimeDefault"}),
]


@pytest.mark.parametrize("patch", HARMLESS, ids=lambda value: str(value)[:60])
def test_what_harms_nobody_is_allowed(patch: dict[str, Any]) -> None:
    pod = patched(patch)
    assert pod == merge(patched(), patch)
    assert breaks(pod) == []
