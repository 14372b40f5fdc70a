"""What clients and settings send, meant to do harm: it stays text, or is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from cluster.fixtures import CLUSTER_MARKS
from jupyter_client.kernelspec import KernelSpec
from manifests import KERNEL_ACCOUNT, Account, kubectl
from notebooks import LONG, Notebook
from servers import Server, run_server, stop_server
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._merge import merge
from jupyter_gpu_share.engines.kubernetes._names import object_name, server_name
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]

MARK = f"/tmp/owned-{uuid4().hex}"
#: Each means something to YAML, Jinja, a shell, a path, a selector, or a URL.
FRAGMENTS = [
    "{{ 7 * 7 }}{% import 'os' as os %}{{ os.system('touch " + MARK + "') }}",
    f"$(touch {MARK}) `touch {MARK}` ; touch {MARK} #",
    "a\nspec:\n  hostNetwork: true\n  containers: []\n",
    'x", "hostNetwork": true, "y": "',
    f"!!python/object/apply:os.system ['touch {MARK}']",
    "&a [*a, *a] <<: {hostPID: true}",
    "../../../../etc/passwd",
    "%2e%2e%2f%00%0d%0a",
    "alice,gpu-share.jupyter.org/part in (kernel,lease)",
    "$(HOSTNAME) $$(HOSTNAME) ${PATH}",
    "\u202e\u200b\U0001f4a5 \\u0000 \\\"'",
]


def shape(pod: dict[str, Any]) -> str:
    """All of a pod that is more than the text of its annotations, its own name and its seed."""
    meta, spec = pod["metadata"], deepcopy(pod["spec"])
    for container in spec["containers"]:
        for variable in container["env"]:
            if variable["name"] == "PYTHONHASHSEED":
                assert variable.pop("value").isdecimal()
    kept = {
        "labels": sorted(meta["labels"]),
        "annotations": sorted(meta["annotations"]),
        "spec": spec,
    }
    return json.dumps(kept, sort_keys=True).replace(meta["name"], "NAME")


async def test_fragments_in_every_field_of_a_start_stay_text(
    jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)

    async def start(kernel_id: str, text: str) -> Notebook:
        one = notebook("1GiB", kernel_id)
        spec = one.manager._kernel_spec
        assert isinstance(spec, KernelSpec)
        one.manager.kernel_name = text
        # Jupyter puts variables in there, which a dollar asks for and two do not.
        spec.env = {"DECLARED": text.replace("$", "$$"), f"A{text}": "x"}
        one.manager._kernel_spec = spec
        return await one.start(
            JPY_SESSION_NAME=f"{text}.ipynb",
            JUPYTERHUB_USER=text,
            LC_TIME=text,
            **{f"LC_{text}": "x"},
        )

    plain = await start("plain", "plain")
    (pattern,) = objects("pods")
    kernels = await asyncio.gather(*(start(f"k {text}", text) for text in FRAGMENTS))
    pods = {
        pod["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"]: pod
        for pod in objects("pods")
    }
    assert len(pods) == len(FRAGMENTS) + 1
    code = (
        "import json, os; print(json.dumps([os.environ['LC_TIME'], os.environ['DECLARED'], "
        f"sorted(n for n in os.environ if n.startswith(('LC_', 'A'))), os.path.exists({MARK!r})]))"
    )
    usual = [name for name in json.loads(await plain.run(code))[2] if "plain" not in name]
    for one, text in zip(kernels, FRAGMENTS, strict=True):
        pod = pods[one.kernel_id]
        assert shape(pod) == shape(pattern)
        notes = pod["metadata"]["annotations"]
        for name in ("user", "kernel-name"):
            assert notes[f"gpu-share.jupyter.org/{name}"] == text
        assert notes["gpu-share.jupyter.org/path"] == str(Path(f"{text}.ipynb"))
        assert one.allocation.user == text
        time, declared, names, owned = json.loads(await one.run(code))
        assert (time, declared, owned) == (text, text, False)
        # A name that is none is left out.
        assert names == usual
    assert not Path(MARK).exists()


async def test_fragments_where_a_size_or_an_id_belongs_create_nothing(
    jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    for text in [*FRAGMENTS, "1/4; 1", "1/4\n", "10GiB --privileged", "-1/4", "1e3GiB", "0x10GiB"]:
        with pytest.raises(GpuShareError):
            await notebook(text).start()
        with pytest.raises(GpuShareError):
            await notebook("1GiB").start(JUPYTER_GPU_SHARE_SIZE=text)
    for text in ("half a pair \ud800", "x" * 5000):
        with pytest.raises(GpuShareError, match="not the id of a kernel"):
            await notebook("1GiB", text).start()
    for flag in (f"-X$(touch {MARK})", "-c", "-Ximporttime;id", "--help", "-iimport os"):
        one = notebook("1GiB")
        spec = one.manager._kernel_spec
        assert isinstance(spec, KernelSpec)
        spec.argv = ["python3", flag, *spec.argv[1:]]
        with pytest.raises(GpuShareError):
            await one.start()
    for what in ("pods", "secrets", "claims"):
        assert not objects(what)


@pytest.fixture
def server(jupyter: Account, tmp_path: Path) -> Iterator[Server]:
    """A Jupyter server whose kernels are pods."""
    traits = {
        "kubeconfig": jupyter.kubeconfig,
        "namespace": jupyter.namespace,
        "service_account": KERNEL_ACCOUNT,
        "image": "localhost/kernel:1",
        "image_pull_policy": "Never",
    }
    options = [f"--KubernetesEngine.{name}={value}" for name, value in traits.items()]
    options += ["--GpuShareProvisioner.engine=kubernetes", "--GpuShareProvisioner.size=1GiB"]
    running = run_server(tmp_path / "server", *options)
    yield running
    stop_server(running)


def test_fragments_in_requests_to_the_server_are_refused_or_stay_text(
    server: Server, jupyter: Account, objects: Objects
) -> None:
    since = jupyter.cluster.audit_position()
    good = str(uuid4())
    for text in [*FRAGMENTS, f"{good}/..", f"{good}\n", f"{good} ", good[:-1], f"{good}0"]:
        status, _ = server.fetch(
            f"gpu-share/requests/{quote(text, safe='')}", "PUT", {"size": "1/4"}
        )
        assert status in (400, 404), text
        for path in ("allocations/{}", "allocations/{}/release", "allocations/{}/wake"):
            method = "POST" if path.count("/") > 1 else "PATCH"
            where = "gpu-share/" + path.format(quote(text, safe=""))
            status, _ = server.fetch(where, method, {})
            assert status in (400, 404), (text, path)
    for text in FRAGMENTS:
        for wrong in ({"size": text}, {"size": {"hostPath": text}}, {"size": "1/4", text: text}):
            assert server.fetch(f"gpu-share/requests/{good}", "PUT", wrong)[0] == 400, wrong
    written = [
        entry["objectRef"]["resource"]
        for entry in jupyter.cluster.audit(since)
        if entry["verb"] in ("create", "patch", "update", "delete")
        and entry.get("userAgent") == "jupyter-gpu-share"
    ]
    assert not {"pods", "secrets", "resourceclaims"} & set(written)

    # A notebook may be called anything, and a client may choose the id of its kernel.
    names = [text for text in FRAGMENTS if "/" not in text and "\n" not in text]
    for text in names[:3]:
        path = f"{text}.ipynb"
        model = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        server.ok("api/sessions", "POST", model)
        server.ok("api/kernels", "POST", {"name": "python3", "kernel_id": f"k {text}"})
    pods = objects("pods")
    notes = [pod["metadata"]["annotations"] for pod in pods]
    assert len({shape(pod) for pod in pods}) == 1
    ids = [each["gpu-share.jupyter.org/kernel-id"] for each in notes]
    paths = {each["gpu-share.jupyter.org/path"] for each in notes}
    assert {f"k {text}" for text in names[:3]} <= set(ids)
    assert paths == {"", *(f"{text}.ipynb" for text in names[:3])}
    assert not Path(MARK).exists()


# -- overrides ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Override:
    """A patch of kernels' pods that an administrator, or somebody with the server's token, tries.

    Attributes
    ----------
    ours: of the package's refusal; empty where it leaves the matter to the cluster.
    theirs: of the cluster's, when the patched pod is sent past the package.
    """

    spec: dict[str, Any]
    ours: str
    theirs: str = "violates PodSecurity"
    metadata: dict[str, Any] | None = None

    @property
    def patch(self) -> dict[str, Any]:
        """As ``c.KubernetesEngine.pod_patch`` takes it."""
        return {"spec": self.spec, **({"metadata": self.metadata} if self.metadata else {})}


def kernel(**fields: Any) -> dict[str, Any]:
    """A patch of the kernel's container."""
    return {"containers": [{"name": "kernel", **fields}]}


def secure(**context: Any) -> dict[str, Any]:
    """A patch of its security context."""
    return kernel(securityContext=context)


def volume(**kind: Any) -> dict[str, Any]:
    """One more volume."""
    return {"volumes": [{"name": "extra", **kind}]}


HARMLESS = {
    "name": "second",
    "image": "localhost/kernel:1",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
PRIVILEGED = {**HARMLESS, "securityContext": {"privileged": True}}
TOKEN = {"serviceAccountToken": {"path": "token"}}
CERTIFICATE = {"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519", "keyPath": "k"}}
OTHERS = {"secretRef": {"name": object_name("alice", "other")}}
OTHERS_KEY = {"secretKeyRef": {"name": object_name("alice", "other"), "key": "agent.json"}}

OVERRIDES = {
    "hostPath": Override(volume(hostPath={"path": "/"}), "hostPath is not allowed"),
    "nfs": Override(volume(nfs={"server": "10.0.0.1", "path": "/"}), "nfs is not allowed"),
    "privileged": Override(
        secure(privileged=True, allowPrivilegeEscalation=True), "privileged is not allowed"
    ),
    "escalation": Override(secure(allowPrivilegeEscalation=True), "allowPrivilegeEscalation"),
    "capability": Override(secure(capabilities={"add": ["NET_ADMIN"]}), "NET_ADMIN"),
    "no capability dropped": Override(secure(capabilities={"drop": []}), "must be dropped"),
    "root": Override(secure(runAsUser=0), "root"),
    "maybe root": Override({"securityContext": {"runAsNonRoot": False}}, "root|runAsNonRoot"),
    "procMount": Override({"hostUsers": False, **secure(procMount="Unmasked")}, "procMount"),
    "unconfined": Override(secure(seccompProfile={"type": "Unconfined"}), "seccompProfile"),
    "host port": Override(kernel(ports=[{"containerPort": 52001, "hostPort": 80}]), "hostPort"),
    "hostNetwork": Override({"hostNetwork": True}, "hostNetwork is not allowed"),
    "hostPID": Override({"hostPID": True}, "hostPID is not allowed"),
    "hostIPC": Override({"hostIPC": True}, "hostIPC is not allowed"),
    "second container": Override({"containers": [PRIVILEGED]}, "privileged is not allowed"),
    "init container": Override({"initContainers": [PRIVILEGED]}, "privileged is not allowed"),
    "token": Override(
        {"automountServiceAccountToken": True}, "automountServiceAccountToken", "no credentials"
    ),
    "projected token": Override(
        volume(projected={"sources": [TOKEN]}), "a token for", "no credentials"
    ),
    "certificate": Override(
        volume(projected={"sources": [CERTIFICATE]}), "a certificate for", "no credentials"
    ),
    "other account": Override({"serviceAccountName": "jupyter"}, "", "gpu-share-kernel"),
    "node": Override({"nodeName": "node-1"}, "nodeName", "scheduler's business"),
    "priority": Override({"priorityClassName": "system-node-critical"}, "", "scheduler's business"),
    "other keys": Override(
        volume(secret={"secretName": object_name("alice", "other")}), "keys", "other kernel's keys"
    ),
    "other keys projected": Override(
        volume(projected={"sources": [{"secret": OTHERS["secretRef"]}]}), "keys", "kernel's keys"
    ),
    "other keys as environment": Override(kernel(envFrom=[OTHERS]), "keys", "other kernel's keys"),
    "other keys as a variable": Override(
        kernel(env=[{"name": "A", "valueFrom": OTHERS_KEY}]), "keys", "other kernel's keys"
    ),
    "other claim": Override(
        {"resourceClaims": [{"name": "more", "resourceClaimName": "somebodys"}]},
        "follows from the size",
        "its own ResourceClaims",
    ),
    "label of servers": Override(
        {}, "package's own", "pods of kernels", {"labels": {"gpu-share.jupyter.org/part": "server"}}
    ),
    "label of another": Override(
        {},
        "package's own",
        "name of its ServiceAcc",
        {"labels": {"gpu-share.jupyter.org/server": "b"}},
    ),
    "finalizer": Override({}, "finalizers", "finalizers", {"finalizers": ["a.b/c"]}),
}


async def test_overrides_that_would_break_out_are_refused_by_the_package(
    jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    notebook("1GiB")
    runtime = Runtime.instance(config)
    engine: Any = await runtime.call(runtime.engine("kubernetes"))
    for name, override in OVERRIDES.items():
        if not override.ours:
            continue
        engine.pod_patch = override.patch
        with pytest.raises(GpuShareError, match=override.ours) as caught:
            await notebook("1GiB").start()
        assert "is refused" in str(caught.value), name
    engine.pod_patch = {}
    engine.volumes = [{"name": "h", "hostPath": {"path": "/"}}]
    with pytest.raises(GpuShareError, match="hostPath is not allowed"):
        await notebook("1GiB").start()
    for what in ("pods", "secrets", "claims"):
        assert not objects(what)


def test_overrides_that_are_sent_past_the_package_are_refused_by_the_cluster(
    jupyter: Account, objects: Objects
) -> None:
    plain = jupyter.pod()
    path = jupyter.path("pods")
    jupyter.api.create(f"{path}?dryRun=All", plain)  # but for the override it is a good pod
    second = merge(plain, {"spec": {"containers": [HARMLESS]}})
    jupyter.api.create(f"{path}?dryRun=All", second)
    for name, override in OVERRIDES.items():
        words = jupyter.refused("POST", path, merge(plain, override.patch))
        assert override.theirs in words, (name, words)
    assert not objects("pods")


def test_the_package_and_the_cluster_refuse_the_same_overrides() -> None:
    """Those that the package leaves to the cluster are named one by one."""
    assert {name for name, each in OVERRIDES.items() if not each.ours} == {
        "other account",
        "priority",
    }


# -- names that collide ------------------------------------------------------------------------

ALIKE = ["a/b", "a.b", "a-b", "A-B", "a_b", "a b", "a%2Fb", "a\\b", "a/b ", "a/b/../b", "a\u2215b"]


async def test_kernels_whose_ids_look_alike_have_nothing_in_common(
    jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    kernels = await asyncio.gather(*(notebook("1GiB", each).start() for each in ALIKE))
    pods = objects("pods")
    label = "gpu-share.jupyter.org/kernel"
    assert len({pod["metadata"]["labels"][label] for pod in pods}) == len(pods) == len(ALIKE)
    assert len({claim["metadata"]["name"] for claim in objects("claims")}) == len(ALIKE)
    keys = {one.manager.session.key for one in kernels}
    assert len(keys) == len(ALIKE)
    await asyncio.gather(*(one.run(f"mine = {one.kernel_id!r}") for one in kernels))
    first, *others = kernels
    await first.close()
    await eventually(lambda: len(objects("pods")) == len(others), "one pod is gone", LONG)
    for one in others:
        assert await one.run("print(repr(mine))") == repr(one.kernel_id)


async def test_servers_whose_names_look_alike_do_not_see_each_others_kernels(
    cluster: Any, namespace: str, config: Config, notebook: Make
) -> None:
    """With rights that nothing limits; the name alone keeps them apart."""
    one = await notebook("1GiB", "k", server_name="a.b").start()
    runtime = Runtime.instance()
    names = ["a/b", "a-b", "A.B", "a.b ", server_name("a.b"), f"{server_name('a.b')}-"]
    for name in names:
        settings = config.copy()
        settings.KubernetesEngine.server_name = name
        other = KubernetesEngine(config=settings)
        assert await runtime.call(other.allocations()) == [], name
        assert await runtime.call(other.adoptable()) == [], name
        await runtime.call(other.close())
    assert await one.run("print('alive')") == "alive"


def test_accounts_whose_names_become_hashes_cannot_be_servers(
    cluster: Any, jupyter: Account
) -> None:
    """``a.b`` is hashed in labels; an account that is called like the hash is not let in."""
    namespace = jupyter.namespace
    for name in ("a.b", server_name("a.b"), "x-1", "a" * 54):
        kubectl(cluster, "create", "serviceaccount", name, "-n", namespace)
        subject = f"--serviceaccount={namespace}:{name}"
        role = "--role=gpu-share-server"
        kubectl(cluster, "create", "rolebinding", name, role, subject, "-n", namespace)
        account = Account(cluster, namespace, name)
        for label in {name, server_name(name)}:
            pod = account.pod(labels=Labels(label, "k-1", "1"))
            words = account.refused("POST", account.path("pods"), pod)
            assert "at most 53 lower-case letters" in words
    lease = {
        "metadata": {
            "name": "gpu-share-jupyter-0123abcd",
            "labels": jupyter.pod()["metadata"]["labels"],
        }
    }
    jupyter.api.create(jupyter.path("leases") + "?dryRun=All", lease)
    # Of a server `jupyter-0123abcd`, or nobody's.
    for name in (
        "gpu-share-jupyter-0123abcd-0123abcd",
        "gpu-share-jupyte-0123abcd",
        "gpu-share-0123abcd",
        "jupyter-0123abcd",
    ):
        lease["metadata"]["name"] = name
        words = jupyter.refused("POST", jupyter.path("leases"), lease)
        assert "no name that a Jupyter server gives" in words, name
