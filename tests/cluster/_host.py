"""What the cluster changes on the machine besides its own folder, and how it is undone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ._errors import ClusterError
from ._programs import process_start, wait_for

NODE = "node-1"
BRIDGE = "gpushare0"
#: Pods reach the host by this address; it exists from the start, not only from the first pod on.
BRIDGE_ADDRESS = "10.244.0.1"
REAL_PODS = "10.244.0.0/24"
KWOK_PODS = "10.244.128.0/17"
SERVICES = "10.96.0.0/24"
ALL_PODS = "10.244.0.0/16"
#: Pods of the runtime classes ``ipv6`` and ``dual`` have addresses of these; nothing routes them.
PODS_6, GATEWAY_6 = "fd6a:7570:7974::/64", "fd6a:7570:7974::1"
DUAL_PODS, DUAL_GATEWAY = "10.244.1.0/24", "10.244.1.1"
DUAL_PODS_6, DUAL_GATEWAY_6 = "fd6a:7570:7974:1::/64", "fd6a:7570:7974:1::1"
#: The node's own address, on the loopback interface: no other machine and no route is involved.
NODE_ADDRESS = "10.244.127.1"
#: Set by us: a bridge that is not given one takes its lowest port's, and changes it whenever a pod
#: comes or goes. What other pods sent would be lost until they asked for the new one.
_BRIDGE_MAC = "02:00:0a:f4:00:01"
_KWOK_PODS_HERE = ("local", KWOK_PODS, "dev", "lo")
_CGROUPS = Path("/sys/fs/cgroup")
_MNT_DETACH = 2


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def check_ports(ports: dict[int, str]) -> None:
    """Raise `ClusterError` if a port on loopback is taken."""
    for port, user in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as err:
                raise ClusterError(
                    f"port {port} on loopback, which {user} needs, is taken by another program; "
                    "only one test cluster can run in a network"
                ) from err


def has_ipv6() -> bool:
    """Whether this machine has IPv6, without which pods cannot have it either."""
    switch = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return switch.exists() and switch.read_text().strip() == "0"


def prepare_network() -> None:
    """Make the bridge, and routes that let no packet for a pod or a service leave the machine."""
    # Left there if the process that used it was killed.
    _ip("route", "delete", *_KWOK_PODS_HERE, check=False)
    # Without kube-proxy, an address of a service would go out by the default route.
    _ip("route", "replace", "blackhole", SERVICES)
    _ip("route", "replace", "blackhole", ALL_PODS)
    _ip("address", "replace", f"{NODE_ADDRESS}/32", "dev", "lo")
    if BRIDGE not in {name for _, name in socket.if_nameindex()}:
        _ip("link", "add", BRIDGE, "address", _BRIDGE_MAC, "type", "bridge")
    for address, pods in (
        (BRIDGE_ADDRESS, REAL_PODS),
        (GATEWAY_6, PODS_6),
        (DUAL_GATEWAY, DUAL_PODS),
        (DUAL_GATEWAY_6, DUAL_PODS_6),
    ):
        prefix, is_ipv6 = pods.partition("/")[2], ":" in address
        # Nobody else has it: it need not be found out first.
        nodad = ["nodad"] if is_ipv6 else []
        if has_ipv6() or not is_ipv6:
            _ip("address", "replace", f"{address}/{prefix}", "dev", BRIDGE, *nodad)
    _ip("link", "set", BRIDGE, "up")


@contextlib.contextmanager
def kwok_pods_here() -> Iterator[None]:
    """Have the addresses of KWOK's pods, which lead nowhere otherwise, lead to this machine."""
    _ip("route", "add", *_KWOK_PODS_HERE)
    try:
        yield
    finally:
        _ip("route", "delete", *_KWOK_PODS_HERE)


def undo_network(network: str) -> None:
    """Take back what `prepare_network` made, and what CNI noted of a network's pods."""
    _ip("link", "delete", BRIDGE, check=False)
    _ip("address", "delete", f"{NODE_ADDRESS}/32", "dev", "lo", check=False)
    for place in (SERVICES, ALL_PODS):
        _ip("route", "delete", "blackhole", place, check=False)
    for result in Path("/var/lib/cni/results").glob(f"{network}-*"):
        result.unlink(missing_ok=True)


def _descendants(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = [int(word) for word in (thread / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def end_containers(shim: str, socket_path: Path) -> None:
    """End every container that a containerd at this socket started, once it is gone itself.

    Shims outlive containerd. Ours are known by their program's name and the socket that they
    report to; a container's processes are its shim's descendants.
    """
    pids = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = os.path.basename(words[0])  # noqa: PTH119 - bytes
        if name == os.fsencode(shim) and os.fsencode(socket_path) in words:
            pids.append(int(folder.name))
    for pid in pids:
        # The shim last: it adopts what its containers leave behind.
        for each in [*_descendants(pid), *_descendants(pid), pid]:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
    for pid in pids:
        wait_for(lambda pid=pid: process_start(pid) is None, f"shim {pid} ends", 20)


def unmount_below(folder: Path) -> None:
    """Detach every mount inside a folder, the innermost first."""
    libc = ctypes.CDLL(None, use_errno=True)
    inside = os.fsencode(folder) + b"/"
    mounts = []
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        target = line.split()[1].decode("unicode_escape").encode("latin-1")
        if target.startswith(inside):
            mounts.append(target)
    for target in sorted(mounts, reverse=True):
        if libc.umount2(target, _MNT_DETACH):
            error = ctypes.get_errno()
            raise ClusterError(f"cannot unmount {os.fsdecode(target)}: {os.strerror(error)}")


def _cgroup_roots(name: str) -> list[Path]:
    """A cgroup's folders: one for each controller, or the only one of the unified hierarchy."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / name]
    return [folder / name for folder in _CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def make_cgroups(name: str) -> None:
    """Make the cgroup below which the kubelet keeps its pods.

    A kubelet ends whatever it does not know there, so no two may share one.
    """
    for folder in _cgroup_roots(name):
        folder.mkdir(exist_ok=True)


def remove_cgroups(name: str) -> None:
    """Remove the kubelet's cgroups, which are empty once its containers have ended."""
    for root in _cgroup_roots(name):
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                # A process may still be on its way out; an empty cgroup does no harm.
                continue
