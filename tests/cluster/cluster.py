"""The cluster of one node: its life, and what tests ask of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import inspect
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from . import _config, _host, _programs
from ._api import Api, ApiError, write_kubeconfig
from ._errors import ClusterError, last_lines
from ._programs import Program, wait_for
from .build import PARTS, PROGRAM_FOLDERS, build, cache_folder, locked, say

#: Longest waits in seconds: for a program to answer, for the node, for a namespace to go.
START = 60.0
NODE_READY = 90.0
GONE = 120.0

#: Names a second cluster of this machine, for a process that has a network of its own.
NAME = "JUPYTER_GPU_SHARE_TEST_CLUSTER"
DEVICE_CLASS = "gpu.nvidia.com"
#: A socket's path may have 107 characters; the kubelet makes the longest ones.
_LONGEST_SOCKET = "kubelet/plugins_registry/gpu.nvidia.com-reg.sock"


class Cluster:
    """One node, its control plane, and simulated GPUs of 80 GiB; everything on loopback.

    Pods of the runtime classes ``ipv6`` and ``dual`` have an address of IPv6 alone, or one of each.

    The names of programs are ``etcd``, ``containerd``, ``apiserver``, ``kcm``, ``scheduler``,
    ``kubelet`` and ``simdra``. Errors are `ClusterError`, with the end of the log concerned.
    """

    #: The real node's name, and an address by which pods reach the host.
    node = _host.NODE
    host_address = _host.BRIDGE_ADDRESS
    api_url = _config.API_URL
    admin_token = _config.ADMIN_TOKEN

    def __init__(self, gpus: int = 2) -> None:
        self.run = cache_folder() / os.environ.get(NAME, "run")
        self._record = self.run / "cluster.json"
        parts = {name: part.folder for name, part in PARTS.items()}
        self._layout = _config.Layout(self.run, parts, gpus)
        self._programs = {name: Program(name, self.run) for name in self._layout.commands()}
        self._held = contextlib.ExitStack()
        self._is_held = False
        self._is_ours = False

    # Life

    def up(self, keep: bool = False) -> bool:
        """Start it, built before if need be; True if it was not running already.

        A running one is used again if it is healthy, made of the same parts, and was meant to be
        kept. ``keep`` says that the next run may use this one. Until `down` or `release`, no
        other process can use the cluster.
        """
        if len(f"{self.run}/{_LONGEST_SOCKET}") > 107:
            raise ClusterError(f"{self.run} is too long for sockets; set XDG_CACHE_HOME shorter")
        build()
        self._hold(patience=1800)
        try:
            if (self._is_ours or self._kept()) and self._healthy():
                say("using the running cluster")
                return False
            self._tear_down()
            self._set_up(keep)
            self._is_ours = True
        except BaseException:
            self.release()
            raise
        return True

    def down(self) -> None:
        """End it and remove all that it left on the machine, but for the logs."""
        self._hold(patience=5)
        try:
            self._tear_down()
        finally:
            self.release()

    def release(self) -> None:
        """Leave it running, for another process to use."""
        self._held.close()
        self._is_held = self._is_ours = False

    def status(self) -> dict[str, Any]:
        """Whether it is healthy, and each program's state."""
        return {
            "healthy": self._healthy(),
            "programs": {name: program.state for name, program in self._programs.items()},
            "kubeconfig": str(self.kubeconfig),
            "logs": str(self.run / "logs"),
        }

    @property
    def key(self) -> str:
        """Changes with every part, and with the way they are set up."""
        digest = hashlib.sha256(f"{self._layout.gpus}".encode())
        for part in PARTS.values():
            digest.update(part.key.encode())
        for module in (_config, _host, _programs):
            digest.update(inspect.getsource(module).encode())
        return digest.hexdigest()[:16]

    def _hold(self, patience: float) -> None:
        if not self._is_held:
            wait = "another process uses the cluster; waiting for it"
            self._held.enter_context(locked(f"cluster-{self.run.name}", wait, patience))
            self._is_held = True

    def _kept(self) -> bool:
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return False
        return bool(record["keep"]) and record["key"] == self.key

    def _healthy(self) -> bool:
        if any(program.state != "running" for program in self._programs.values()):
            return False
        try:
            return self._answers("apiserver") and self._node_ready()
        except (OSError, ApiError):
            return False

    def _set_up(self, keep: bool) -> None:
        say("starting")
        _host.check_ports(_config.PORTS)
        try:
            self.run.mkdir(mode=0o700, parents=True)
            self._layout.write()
            _host.prepare_network()
            _host.make_cgroups(self._layout.identity)
            self.start("etcd", wait=False)
            self.start("containerd")
            with self._images():
                self._wait("etcd")
                self.start("apiserver")
                self._write_kubeconfigs()
                for name in ("kcm", "scheduler", "kubelet"):
                    self.start(name, wait=False)
                self._create_device_class()
                self._let_nodes_read_claims()
                self._create_runtime_classes()
            for name in ("kcm", "scheduler", "kubelet"):
                self._wait(name)
            self.start("simdra")
            self._wait_node()
            self._wait_account("default")
        except BaseException:
            self._tear_down()
            raise
        self._record.write_text(json.dumps({"key": self.key, "keep": keep}))
        say(f"up; KUBECONFIG={self.kubeconfig}")

    def _tear_down(self) -> None:
        if not self.run.exists():
            return
        records = self.run / "programs"
        # By what was recorded: an older version may have had other programs.
        programs = [Program(path.stem, self.run) for path in records.glob("*.json")]
        # Nothing of it is used again, so there is nothing to tidy up; containerd last of those
        # that could start a container.
        for program in sorted(programs, key=lambda program: program.name == "containerd"):
            program.kill()
        _host.end_containers("containerd-shim-runc-v2", self._layout.containerd_socket)
        _host.unmount_below(self.run)
        _host.undo_network(self._layout.identity)
        _host.remove_cgroups(self._layout.identity)
        self._keep_logs()
        shutil.rmtree(self.run)
        # The next API server has another certificate.
        self.__dict__.pop("api", None)

    def _keep_logs(self) -> None:
        kept = self.run.parent / f"last-{self.run.name}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for path in (self.run / "logs", self.audit_log):
            if path.exists():
                path.rename(kept / path.name)

    @contextlib.contextmanager
    def _images(self) -> Iterator[None]:
        """Import the images meanwhile."""
        log = self.run / "logs" / "images.log"
        archives = [self._layout.parts[name] / "image.tar" for name in ("pause", "kernel")]
        with log.open("w") as file:
            imports = [
                subprocess.Popen(
                    self._layout.ctr("images", "import", archive), stdout=file, stderr=file
                )
                for archive in archives
            ]
            try:
                yield
                for each in imports:
                    if each.wait(START):
                        raise ClusterError(f"cannot import the images.\n{last_lines(log)}")
            finally:
                for each in imports:
                    each.kill()
                    each.wait()

    def _write_kubeconfigs(self) -> None:
        for user, (token, _, _) in _config.TOKENS.items():
            path = self._layout.kubeconfig(user)
            write_kubeconfig(path, self.api_url, self._layout.authority, token)

    def _create_device_class(self) -> None:
        # As that of NVIDIA's driver: instances of GPUs have a class of their own.
        own = f"device.driver == '{DEVICE_CLASS}'"
        expression = f"{own} && device.attributes['{DEVICE_CLASS}'].type == 'gpu'"
        self.api.create(
            "/apis/resource.k8s.io/v1/deviceclasses",
            {
                "metadata": {"name": DEVICE_CLASS},
                "spec": {"selectors": [{"cel": {"expression": expression}}]},
            },
        )

    def _create_runtime_classes(self) -> None:
        # Pods choose their network by them.
        for name in _config.NETWORKS:
            body = {"metadata": {"name": name}, "handler": name}
            self.api.create("/apis/node.k8s.io/v1/runtimeclasses", body)

    def _let_nodes_read_claims(self) -> None:
        # The API server lets a node read the claims of its pods a moment after the pod is bound. A
        # kubelet that was quicker is refused, and tries again only a minute later.
        roles = "/apis/rbac.authorization.k8s.io/v1"
        name, group = "nodes-read-claims", "rbac.authorization.k8s.io"
        rule = {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["get"]}
        self.api.create(f"{roles}/clusterroles", {"metadata": {"name": name}, "rules": [rule]})
        self.api.create(
            f"{roles}/clusterrolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}],
            },
        )

    # Single programs, for tests of faults

    def start(self, name: str, wait: bool = True) -> None:
        """Start a program that does not run, and wait until it answers."""
        program = self._programs[name]
        if program.pid is None:
            if name == "simdra":
                self._layout.driver_ready.unlink(missing_ok=True)
            program.start(self._layout.commands()[name], self._environment())
        if wait:
            self._wait(name)

    def stop(self, name: str) -> None:
        """End a program in an orderly way; its containers, if it has any, go on."""
        self._programs[name].stop()

    def kill(self, name: str) -> None:
        """End a program at once, as a crash would."""
        self._programs[name].kill()

    def pause(self, name: str) -> None:
        """Freeze a program: its connections stay open, and nothing is answered."""
        program = self._programs[name]
        program.signal(signal.SIGSTOP)
        wait_for(lambda: program.state == "paused", f"{name} is paused", 10)

    def resume(self, name: str) -> None:
        """Let a frozen program go on."""
        self._programs[name].signal(signal.SIGCONT)

    def restore(self) -> None:
        """Resume and start whatever a test left paused or stopped, until the node is ready."""
        for name, program in self._programs.items():
            if program.state == "paused":
                self.resume(name)
            self.start(name)
        self._wait_node()

    @contextlib.contextmanager
    def driver(self, **shape: str | int) -> Iterator[None]:
        """GPUs of another shape for a while: ``minimum``, ``cores``, ``tainted``, ``partitions``.

        `simdra` says what each means; no pod may use a GPU when it changes.
        """
        plain = self._layout
        try:
            self._layout = dataclasses.replace(
                plain, driver=tuple(f"-{name}={value}" for name, value in shape.items())
            )
            self.stop("simdra")
            self.start("simdra")
            yield
        finally:
            self._layout = plain
            self.stop("simdra")
            self.start("simdra")

    def log(self, name: str) -> Path:
        """A program's log."""
        return self._programs[name].log

    def _environment(self) -> dict[str, str]:
        # No proxy of ours, and containerd finds its shim.
        return {"PATH": f"{self._layout.parts['runtime']}:{PROGRAM_FOLDERS}", "HOME": "/root"}

    def _wait(self, name: str) -> None:
        self._programs[name].wait_until(lambda: self._answers(name), "answers", START)

    def _answers(self, name: str) -> bool:
        try:
            if name == "containerd":
                version = self._layout.ctr("version")
                return subprocess.run(version, capture_output=True, check=False).returncode == 0
            if name == "apiserver":
                return self._layout.authority.exists() and self.api.raw("GET", "/readyz")[0] == 200
            if name == "simdra":
                return self._layout.driver_ready.exists() and self._devices() >= self._layout.gpus
            port, path, tls = {
                "etcd": (_config.ETCD, "/readyz", False),
                "kcm": (_config.CONTROLLERS, "/healthz", True),
                "scheduler": (_config.SCHEDULER, "/readyz", True),
                "kubelet": (_config.KUBELET_HEALTH, "/healthz", False),
            }[name]
            return _status(port, path, tls) == 200
        except (OSError, ApiError):
            return False

    def _devices(self) -> int:
        slices = self.api.get("/apis/resource.k8s.io/v1/resourceslices")["items"]
        return sum(
            len(each["spec"].get("devices", []))
            for each in slices
            if each["spec"]["driver"] == DEVICE_CLASS
        )

    def _node_ready(self) -> bool:
        try:
            node = self.api.get(f"/api/v1/nodes/{self.node}")
        except (OSError, ApiError):
            return False
        conditions = node["status"].get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        # A taint may outlive the condition for a moment, and nothing is scheduled until it goes.
        return ready and not node["spec"].get("taints")

    def _wait_node(self) -> None:
        kubelet = self._programs["kubelet"]
        kubelet.wait_until(self._node_ready, f"{self.node} is ready", NODE_READY)

    # What tests ask for

    @cached_property
    def api(self) -> Api:
        """The API as administrator; the cluster must be up."""
        return self.api_as(self.admin_token)

    def api_as(self, token: str) -> Api:
        """The API with another token."""
        return Api(self.api_url, self._layout.authority, token)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._layout.kubeconfig("admin")

    @property
    def authority(self) -> Path:
        """The certificate, PEM, by which clients know the API server."""
        return self._layout.authority

    @property
    def audit_log(self) -> Path:
        """Every request to the API server without its body, one JSON object a line."""
        return self._layout.audit_log

    def audit_position(self) -> int:
        """The size of the audit log in bytes, to be given to `audit` later."""
        self._settle_audit()
        return self.audit_log.stat().st_size

    def audit(self, since_bytes: int = 0) -> list[dict[str, Any]]:
        """Events in the audit log from a position on; the harness' own marks are left out."""
        self._settle_audit()
        with self.audit_log.open("rb") as file:
            file.seek(since_bytes)
            lines = file.read().split(b"\n")
        # What follows the last newline is not written out yet.
        events = [json.loads(line) for line in lines[:-1]]
        return [event for event in events if "/version?mark=" not in event["requestURI"]]

    def _settle_audit(self) -> None:
        """Wait until the log has caught up: a request's line comes after its answer."""
        if self._programs["apiserver"].state != "running":
            return
        mark = f"/version?mark={secrets.token_hex(8)}"
        start = self.audit_log.stat().st_size
        self.api.get(mark)

        def written() -> bool:
            with self.audit_log.open("rb") as file:
                file.seek(start)
                return mark.encode() in file.read()

        wait_for(written, "the audit log catches up", 10)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace, ready for pods, and return its name."""
        self.api.create(
            "/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}}
        )
        self._wait_account(name)
        return name

    def _wait_account(self, namespace: str) -> None:
        # No pod can be created before the controller manager has made the account.
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self._programs["kcm"].wait_until(lambda: self._exists(path), f"makes {path}", START)

    def _exists(self, path: str) -> bool:
        try:
            self.api.get(path)
        except ApiError as err:
            if err.status == 404:
                return False
            raise
        return True

    def delete_namespace(self, name: str, wait: bool = False) -> None:
        """Delete a namespace; its pods and claims are gone and their GPUs free on return.

        The namespace itself goes five seconds later at the soonest; ``wait`` waits for that.
        """
        namespace = f"/api/v1/namespaces/{name}"
        claims = f"/apis/resource.k8s.io/v1/namespaces/{name}/resourceclaims"

        def emptied() -> bool:
            left = 0
            # Without a grace, so that no test waits for the end of another one's pods.
            for path, grace in ((f"{namespace}/pods", 0), (claims, None)):
                if found := self.api.get(path)["items"]:
                    self.api.delete(path, grace)
                    left += len(found)
            return not left

        def left() -> str:
            conditions = self.api.get(namespace)["status"].get("conditions", [])
            return "\n".join(each.get("message", "") for each in conditions)

        self.api.delete(namespace)
        wait_for(emptied, f"{name} has no pods and claims any more", GONE)
        if wait:
            gone = f"namespace {name} is gone"
            wait_for(lambda: not self._exists(namespace), gone, GONE, left)

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token for a ServiceAccount, which is made if there is none; 600 s at least."""
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if not self._exists(f"{accounts}/{name}"):
            self.api.create(accounts, {"metadata": {"name": name}})
        request = {"spec": {"expirationSeconds": seconds}}
        return self.api.create(f"{accounts}/{name}/token", request)["status"]["token"]

    def service_account_kubeconfig(self, namespace: str, name: str, seconds: int = 3600) -> Path:
        """A kubeconfig with a ServiceAccount's token, in a file of its own."""
        token = self.service_account_token(namespace, name, seconds)
        path = self.run / "accounts" / f"{namespace}-{name}-{secrets.token_hex(4)}.kubeconfig"
        return write_kubeconfig(path, self.api_url, self._layout.authority, token)

    @contextlib.contextmanager
    def kwok(self, nodes: int, gpus: int = 8) -> Iterator[list[str]]:
        """Names of nodes that only KWOK plays, each with so many ``nvidia.com/gpu``.

        Pods on them run at once, without a process. Keep a test's real pods away with the node
        selector ``kubernetes.io/hostname``.
        """
        from ._kwok import kwok_nodes

        program = Program("kwok", self.run)
        with kwok_nodes(self.api, program, self._layout, self._environment(), nodes, gpus) as names:
            yield names

    @contextlib.contextmanager
    def kueue(self) -> Iterator[None]:
        """Run Kueue: pods with the label of a LocalQueue wait for its quota."""
        from . import _kueue

        build(_kueue.PART)
        program = Program("kueue", self.run)
        folder, environment = self.run / "kueue", self._environment()
        with _kueue.running(self.api, program, folder, self.kubeconfig, environment):
            yield


def _status(port: int, path: str, tls: bool) -> int:
    """The status of a program's own health page on loopback."""
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    options: dict[str, Any] = {}
    if tls:
        # It signs its certificate itself, and only its health is asked.
        kind = http.client.HTTPSConnection
        options = {"context": ssl._create_unverified_context()}
    connection = kind("127.0.0.1", port, timeout=5, **options)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException as err:
        raise ConnectionError(str(err)) from err
    finally:
        connection.close()
