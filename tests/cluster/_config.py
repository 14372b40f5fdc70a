"""Configuration of each program of the cluster, and its command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import _host, images

ETCD = 2379
ETCD_PEERS = 2380
API = 6443
KUBELET = 10250
KUBELET_HEALTH = 10248
CONTROLLERS = 10257
SCHEDULER = 10259
PORTS = {
    ETCD: "etcd",
    ETCD_PEERS: "etcd",
    API: "the API server",
    KUBELET: "the kubelet",
    KUBELET_HEALTH: "the kubelet",
    CONTROLLERS: "the controller manager",
    SCHEDULER: "the scheduler",
}
API_URL = f"https://127.0.0.1:{API}"
ADMIN_TOKEN = "admin-token"  # the API server listens on loopback only
#: Token, user and groups of each program: Kubernetes' own roles decide what the last two may.
TOKENS = {
    "admin": (ADMIN_TOKEN, "admin", "system:masters"),
    "kcm": ("kcm-token", "system:kube-controller-manager", "system:masters"),
    "scheduler": ("scheduler-token", "system:kube-scheduler", ""),
    "kubelet": ("kubelet-token", f"system:node:{_host.NODE}", "system:nodes"),
}
_CLIENT_CERTIFICATE = (
    *("req", "-x509", "-nodes", "-days", "365", "-newkey", "ec"),
    *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-subj", "/O=system:masters/CN=apiserver-kubelet-client"),
)
#: The network of pods that ask for none.
POD_NETWORK = "ipv4"
#: Networks, each of a runtime class of that name: pods' addresses, with the host's own of each.
NETWORKS = {
    POD_NETWORK: {_host.REAL_PODS: _host.BRIDGE_ADDRESS},
    "ipv6": {_host.PODS_6: _host.GATEWAY_6},
    "dual": {
        _host.DUAL_PODS: _host.DUAL_GATEWAY,
        _host.DUAL_PODS_6: _host.DUAL_GATEWAY_6,
    },
}
#: Requests per second and at once: measurements shall not meet a client's own limit.
QPS, BURST = 200, 400
#: Room for tests with many kernels at once; the pods' network has 253 addresses.
MAX_PODS = 200


@dataclass(frozen=True)
class Layout:
    """Where things lie in a run's folder."""

    run: Path
    parts: dict[str, Path]
    gpus: int
    #: Arguments of the driver of GPUs besides: what its devices are like, where not as by default.
    driver: tuple[str, ...] = ()

    @property
    def containerd_socket(self) -> Path:
        """Where containerd is asked."""
        return self.run / "containerd.sock"

    @property
    def authority(self) -> Path:
        """The certificate by which the API server is known; it makes the file itself."""
        return self.run / "pki" / "apiserver.crt"

    @property
    def audit_log(self) -> Path:
        """One line of JSON for each request to the API server."""
        return self.run / "audit.log"

    @property
    def driver_ready(self) -> Path:
        """Exists while the kubelet knows the driver that runs."""
        return self.run / "simdra.ready"

    @property
    def kubelet(self) -> Path:
        """The kubelet's folder."""
        return self.run / "kubelet"

    @property
    def identity(self) -> str:
        """Names what this cluster has outside its folder: its cgroup, and its network for CNI."""
        return f"gpu-share-{hashlib.sha256(bytes(self.run)).hexdigest()[:8]}"

    def kubeconfig(self, user: str) -> Path:
        """The file with a program's token."""
        return self.run / f"{user}.kubeconfig"

    def ctr(self, *words: str | Path) -> list[str]:
        """A command of containerd's own client, in the kubelet's namespace."""
        program = self.parts["runtime"] / "ctr"
        return list(map(str, (program, "-a", self.containerd_socket, "-n", "k8s.io", *words)))

    def commands(self) -> dict[str, list[str]]:
        """Command lines by program, in the order in which they are started."""
        kubernetes, runtime = self.parts["kubernetes"], self.parts["runtime"]
        run = self.run
        etcd = f"http://127.0.0.1:{ETCD}"
        qps = [f"--kube-api-qps={QPS}", f"--kube-api-burst={BURST}"]
        return {
            "etcd": [
                f"{kubernetes}/etcd",
                f"--data-dir={run}/etcd",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{ETCD_PEERS}",
                "--unsafe-no-fsync",
            ],
            "containerd": [f"{runtime}/containerd", "-c", f"{run}/containerd.toml"],
            "apiserver": [
                f"{kubernetes}/kube-apiserver",
                f"--etcd-servers={etcd}",
                "--bind-address=127.0.0.1",
                f"--secure-port={API}",
                # It would look for a default route, and there need be none.
                f"--advertise-address={_host.NODE_ADDRESS}",
                f"--cert-dir={run}/pki",
                f"--service-cluster-ip-range={_host.SERVICES}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={run}/pki/sa.pub",
                f"--service-account-signing-key-file={run}/pki/sa.key",
                f"--token-auth-file={run}/pki/tokens.csv",
                "--authorization-mode=Node,RBAC",
                # By address: names of nodes are known to no resolver.
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={run}/pki/kubelet-client.crt",
                f"--kubelet-client-key={run}/pki/kubelet-client.key",
                # It would publish its address as a service's, and loopback is refused there.
                "--endpoint-reconciler-type=none",
                "--allow-privileged=true",
                # Otherwise it would wait a minute for the watches of all the others to end.
                "--shutdown-watch-termination-grace-period=1s",
                f"--audit-policy-file={run}/audit-policy.json",
                f"--audit-log-path={self.audit_log}",
                "--audit-log-mode=blocking",
                # A log that is moved away in the middle of a test could not be counted.
                "--audit-log-maxsize=100000",
            ],
            "kcm": [
                f"{kubernetes}/kube-controller-manager",
                f"--kubeconfig={self.kubeconfig('kcm')}",
                "--authentication-skip-lookup",
                f"--service-account-private-key-file={run}/pki/sa.key",
                f"--root-ca-file={self.authority}",
                "--leader-elect=false",
                f"--cert-dir={run}/pki/kcm",
                "--bind-address=127.0.0.1",
                *qps,
            ],
            "scheduler": [
                f"{kubernetes}/kube-scheduler",
                f"--kubeconfig={self.kubeconfig('scheduler')}",
                "--authentication-skip-lookup",
                "--leader-elect=false",
                f"--cert-dir={run}/pki/scheduler",
                "--bind-address=127.0.0.1",
                *qps,
            ],
            "kubelet": [
                f"{kubernetes}/kubelet",
                f"--config={run}/kubelet.json",
                f"--kubeconfig={self.kubeconfig('kubelet')}",
                f"--hostname-override={_host.NODE}",
                f"--node-ip={_host.NODE_ADDRESS}",
                f"--root-dir={self.kubelet}",
                f"--cert-dir={run}/pki/kubelet",
            ],
            "simdra": [
                f"{self.parts['simdra']}/simdra",
                f"-kubeconfig={self.kubeconfig('admin')}",
                f"-node={_host.NODE}",
                f"-kubelet={self.kubelet}",
                f"-cdi={run}/cdi",
                f"-ready={self.driver_ready}",
                f"-gpus={self.gpus}",
                *self.driver,
            ],
        }

    def write(self) -> None:
        """Write every file that the programs read, but for kubeconfigs."""
        for name in ("pki", "cdi", "logs", "programs", "accounts"):
            (self.run / name).mkdir(parents=True, exist_ok=True)
        self._write_keys()
        self._write_json("audit-policy.json", _AUDIT_POLICY)
        for name, ranges in NETWORKS.items():
            (self.run / name).mkdir(exist_ok=True)
            self._write_json(f"{name}/10-pods.conflist", self._cni(name, ranges))
        self._write_json("kubelet.json", self._kubelet())
        (self.run / "containerd.toml").write_text(self._containerd())

    def _write_json(self, name: str, content: object) -> None:
        (self.run / name).write_text(json.dumps(content, indent=2))

    def _write_keys(self) -> None:
        key, public = self.run / "pki" / "sa.key", self.run / "pki" / "sa.pub"
        client = self.run / "pki" / "kubelet-client"
        for command in (
            ["genrsa", "-out", key, "2048"],
            ["rsa", "-in", key, "-pubout", "-out", public],
            # Signed by itself: the kubelet takes it for the authority too.
            [*_CLIENT_CERTIFICATE, "-keyout", f"{client}.key", "-out", f"{client}.crt"],
        ):
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        lines = [
            f'{token},{user},{number},"{groups}"\n'
            for number, (token, user, groups) in enumerate(TOKENS.values())
        ]
        (self.run / "pki" / "tokens.csv").write_text("".join(lines))

    def _cni(self, name: str, ranges: dict[str, str]) -> dict[str, object]:
        bridge = {
            "type": "bridge",
            "bridge": _host.BRIDGE,
            # The bridge has its addresses already. With IPv6 it would have the machine forward
            # packets, which then takes no default route from a router's advertisement any more.
            "isGateway": name == POD_NETWORK,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": f"{self.run}/addresses",
                "ranges": [[{"subnet": pods, "gateway": gate}] for pods, gate in ranges.items()],
                "routes": [{"dst": "::/0" if ":" in pods else "0.0.0.0/0"} for pods in ranges],
            },
        }
        return {"cniVersion": "1.0.0", "name": f"{self.identity}-{name}", "plugins": [bridge]}

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": _host.NODE_ADDRESS,
            "port": KUBELET,
            "healthzPort": KUBELET_HEALTH,
            "containerRuntimeEndpoint": f"unix://{self.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.identity}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            # Pods reach it too, by the node's address.
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.run}/pki/kubelet-client.crt"},
            },
            "authorization": {"mode": "Webhook"},
            # A machine's full disk is no reason to evict a test's pods.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": MAX_PODS,
            "podLogsDir": f"{self.run}/podlogs",
            "kubeAPIQPS": QPS,
            "kubeAPIBurst": BURST,
        }

    def _containerd(self) -> str:
        run = self.run
        runtimes = "".join(_RUNTIME.format(name=name, folder=run / name) for name in NETWORKS)
        return f"""version = 3
root = "{run}/containerd"
state = "{run}/state"

[grpc]
  address = "{self.containerd_socket}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{images.PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = true
  cdi_spec_dirs = ["{run}/cdi"]
  use_internal_loopback = true
  # Network namespaces go with the folder, and none is left in /run.
  netns_mounts_under_state_dir = true
  # Without CAP_SYS_RESOURCE no sandbox could be given its score of -998.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{run}/{POD_NETWORK}"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "{POD_NETWORK}"
{runtimes}"""


_RUNTIME = """
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}]
  runtime_type = "io.containerd.runc.v2"
  cni_conf_dir = "{folder}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}.options]
    SystemdCgroup = false
"""


#: Every request, once, when it is done; without bodies, so that no Secret gets into the log.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
