"""Builds what the test cluster consists of, once for each version, into the user's cache.

Programs are built as ordinary Go modules, the images' contents are Debian's and PyPI's. Each part
lies in a folder of its own, named after everything that went into it, so a change of one part
leaves the others alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import images
from ._errors import CannotRunError, ClusterError, last_lines
from ._host import unmount_below

KUBERNETES = "1.37.2"
CONTAINERD = "2.3.7"
KWOK = "0.8.0"

#: Parts are removed after so many days without use, when another one is built.
UNUSED_DAYS = 14

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent

#: Debian packages, each with a file or a program by which its presence is seen.
PACKAGES = {
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "debootstrap": "debootstrap",
    "gcc": "gcc",
    "iproute2": "ip",
    "iptables": "iptables",
    "libc6-dev": "/usr/include/stdlib.h",
    "openssl": "openssl",
    "runc": "runc",
}
PROGRAM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: ``etcd`` comes in the version that Kubernetes itself names.
KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
)
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
CONTAINERD_TAGS = "no_btrfs no_devmapper no_zfs no_aufs"
STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")


def cache_folder() -> Path:
    """Where parts, and the running cluster's files, are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jupyter-gpu-share" / "testbed"


def why_not_here() -> str | None:
    """One sentence that says why no cluster can run on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return "the test cluster needs Linux"
    if os.geteuid() != 0:
        return "the test cluster needs root, for containers and their network"
    if shutil.which("go") is None:
        return "the test cluster's programs are built with Go, which is not installed"
    return None


def say(text: str) -> None:
    """Progress for whoever waits: a build takes minutes."""
    print(f"test cluster: {text}", file=sys.stderr, flush=True)


class Workshop:
    """Runs a part's commands in a scratch folder, with one log."""

    def __init__(self, folder: Path, log: TextIO) -> None:
        self.folder = folder
        self._log = log

    def run(self, *command: str | Path, cwd: Path | None = None) -> None:
        """Run a command, and raise `ClusterError` if it fails."""
        self._log.write(f"+ {' '.join(map(str, command))}\n")
        self._log.flush()
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            told = last_lines(Path(self._log.name))
            raise ClusterError(f"{command[0]} ended with {done.returncode}.\n{told}")

    def module(self, requires: dict[str, str], imports: Sequence[str], replaces: str = "") -> None:
        """Make the scratch folder a Go module that depends on the programs to be built."""
        needed = "".join(f"\t{path} {version}\n" for path, version in requires.items())
        (self.folder / "go.mod").write_text(
            f"module testbed.local/programs\n\ngo 1.26.0\n\nrequire (\n{needed})\n{replaces}"
        )
        used = "".join(f'\t_ "{path}"\n' for path in imports)
        (self.folder / "tools.go").write_text(
            f"//go:build tools\n\npackage tools\n\nimport (\n{used})\n"
        )
        self.run("go", "mod", "tidy")

    def go_build(
        self,
        out: Path,
        *packages: str,
        flags: str = "-s -w",
        tags: str = "",
        cwd: Path | None = None,
    ) -> None:
        """Build programs into a folder, or one program under a name."""
        tagged = ["-tags", tags] if tags else []
        target = f"{out}/" if out.is_dir() else str(out)
        build = ["go", "build", "-trimpath", "-ldflags", flags, *tagged, "-o", target, *packages]
        self.run(*build, cwd=cwd)


def _go_module(path: str, version: str, file: str) -> Path:
    """A downloaded module: its ``GoMod`` file or its ``Dir``."""
    answer = subprocess.run(
        ["go", "mod", "download", "-json", f"{path}@{version}"],
        cwd=tempfile.gettempdir(),
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        said = answer.stderr.decode() + answer.stdout.decode()
        raise ClusterError(f"cannot download the Go module {path} {version}: {said.strip()}")
    return Path(json.loads(answer.stdout)[file])


def build_kubernetes(shop: Workshop, out: Path) -> None:
    """The control plane, the kubelet and etcd."""
    # Kubernetes names the modules of its own tree with version 0.0.0: they are published
    # under the minor version.
    own = "v0." + KUBERNETES.partition(".")[2]
    manifest = _go_module("k8s.io/kubernetes", f"v{KUBERNETES}", "GoMod").read_text()
    words = [line.split() for line in manifest.splitlines()]
    tree = sorted({word[0] for word in words if len(word) > 1 and word[1] == "v0.0.0"})
    replaces = "".join(f"replace {path} => {path} {own}\n" for path in tree)
    programs = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_PROGRAMS]
    etcd = "go.etcd.io/etcd/server/v3"
    shop.module({"k8s.io/kubernetes": f"v{KUBERNETES}"}, [etcd, *programs], replaces)
    major, minor, _ = KUBERNETES.split(".")
    stamp = "-X k8s.io/component-base/version."
    # Without a version the API server takes itself for 0.0 and refuses its own APIs.
    flags = f"-s -w {stamp}gitVersion=v{KUBERNETES} {stamp}gitMajor={major} {stamp}gitMinor={minor}"
    shop.go_build(out, *programs, flags=flags)
    shop.go_build(out / "etcd", etcd)


def build_runtime(shop: Workshop, out: Path) -> None:
    """containerd, and KWOK with the Stage definitions without which it does nothing."""
    containerd = "github.com/containerd/containerd/v2"
    programs = [f"{containerd}/cmd/{name}" for name in CONTAINERD_PROGRAMS]
    kwok = "sigs.k8s.io/kwok"
    versions = {containerd: f"v{CONTAINERD}", kwok: f"v{KWOK}"}
    shop.module(versions, [*programs, f"{kwok}/cmd/kwok"])
    shop.go_build(out, *programs, tags=CONTAINERD_TAGS)
    shop.go_build(out / "kwok", f"{kwok}/cmd/kwok")
    shipped = _go_module(kwok, f"v{KWOK}", "Dir") / "kustomize" / "stage"
    (out / "stages").mkdir()
    for stage in STAGES:
        for path in sorted((shipped / stage).glob("*.yaml")):
            if path.name != "kustomization.yaml":
                (out / "stages" / path.name).write_bytes(path.read_bytes())


def build_simdra(shop: Workshop, out: Path) -> None:
    """The driver of the simulated GPUs."""
    shop.go_build(out / "simdra", ".", cwd=HERE / "simdra")


#: The user is that of Kubernetes' own pause image.
_PAUSE_CONFIG = {"Entrypoint": ["/pause"], "User": "65535:65535"}


def build_pause(shop: Workshop, out: Path) -> None:
    """The sandbox image: one static program."""
    root = shop.folder / "root"
    root.mkdir()
    shop.run("gcc", "-static", "-O2", "-o", root / "pause", HERE / "pause" / "pause.c")
    images.pack(root, images.PAUSE, _PAUSE_CONFIG, out / "image.tar")


def build_kernel(shop: Workshop, out: Path) -> None:
    """The kernel image: Debian with Python and ipykernel."""
    images.make_kernel_root(shop.run, shop.folder / "root")
    images.pack(shop.folder / "root", images.KERNEL, images.KERNEL_CONFIG, out / "image.tar")


@dataclass(frozen=True)
class Part:
    """Something that is built on its own."""

    name: str
    what: str
    make: Callable[[Workshop, Path], None]
    #: Everything besides `make` that decides what comes out.
    inputs: tuple[str, ...]
    sources: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """A short hash of all that goes in."""
        digest = hashlib.sha256()
        for text in (platform.machine(), inspect.getsource(self.make), *self.inputs):
            digest.update(text.encode() + b"\0")
        for path in self.sources:
            digest.update(path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where it lies when it is built."""
        return cache_folder() / f"{self.name}-{self.key}"


_SIMDRA = tuple(HERE / "simdra" / name for name in ("go.mod", "go.sum", "main.go"))
_IMAGES = inspect.getsource(images)

PARTS = {
    part.name: part
    for part in (
        Part(
            "kubernetes",
            f"Kubernetes {KUBERNETES} and etcd",
            build_kubernetes,
            (KUBERNETES, *KUBERNETES_PROGRAMS),
        ),
        Part(
            "runtime",
            f"containerd {CONTAINERD} and KWOK {KWOK}",
            build_runtime,
            (CONTAINERD, CONTAINERD_TAGS, *CONTAINERD_PROGRAMS, KWOK, *STAGES),
        ),
        Part("simdra", "the driver of simulated GPUs", build_simdra, (), _SIMDRA),
        Part(
            "pause",
            "the sandbox image",
            build_pause,
            (_IMAGES, str(_PAUSE_CONFIG)),
            (HERE / "pause" / "pause.c",),
        ),
        Part("kernel", "the kernel image", build_kernel, (_IMAGES,)),
    )
}


@contextlib.contextmanager
def locked(name: str, wait: str, patience: float) -> Iterator[None]:
    """Hold a lock among processes; say ``wait`` once if another one has it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    told = False
    with (folder / f"{name}.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                if time.monotonic() > end:
                    raise ClusterError(f"{wait}: not free after {patience:.0f} s") from err
            if not told:
                say(wait)
                told = True
            time.sleep(0.2)
        yield


def install_packages() -> None:
    """Install the Debian packages that are missing."""
    missing = [
        package
        for package, sign in PACKAGES.items()
        if not (Path(sign).exists() if sign.startswith("/") else _which(sign))
    ]
    if not missing:
        return
    say(f"installing {' '.join(missing)}")
    script = REPOSITORY / "scripts" / "apt-install"
    done = subprocess.run([script, *missing], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"cannot install {' '.join(missing)}: {done.stderr.strip()}")


def _which(program: str) -> str | None:
    return shutil.which(program, path=PROGRAM_FOLDERS)


def build(*more: Part) -> dict[str, Path]:
    """Folders of all parts by name; what is missing is built first, by one process at a time.

    ``more`` are built after those that every cluster is made of.
    """
    parts = [*PARTS.values(), *more]
    reason = why_not_here()
    if reason:
        raise CannotRunError(reason)
    install_packages()
    if not all(part.folder.is_dir() for part in parts):
        with locked("build", "another process builds; waiting for it", patience=1800):
            _remove_leftovers(parts)
            for part in parts:
                if not part.folder.is_dir():
                    _build_part(part)
    for part in parts:
        os.utime(part.folder)
    return {part.name: part.folder for part in parts}


def _remove_leftovers(parts: Sequence[Part]) -> None:
    """Remove what killed builds left, and parts that nobody has used for long."""
    long_ago = time.time() - UNUSED_DAYS * 86400
    for name in (part.name for part in parts):
        for scratch in cache_folder().glob(f".{name}-*"):
            _discard(scratch)
        for folder in cache_folder().glob(f"{name}-*"):
            if not folder.is_symlink() and folder.stat().st_mtime < long_ago:
                shutil.rmtree(folder)


def _discard(scratch: Path) -> None:
    # debootstrap mounts /proc, and leaves it behind when it fails.
    unmount_below(scratch)
    shutil.rmtree(scratch)


def _build_part(part: Part) -> None:
    say(f"building {part.what}")
    start = time.monotonic()
    folder = part.folder
    # Beside its place, so that the finished part only has to be renamed.
    scratch = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=cache_folder()))
    try:
        out = scratch / "out"
        work = scratch / "work"
        out.mkdir()
        work.mkdir()
        with (cache_folder() / f"build-{part.name}.log").open("w") as log:
            part.make(Workshop(work, log), out)
        scratch.joinpath("out").rename(folder)
    finally:
        _discard(scratch)
    say(f"built {part.what} in {time.monotonic() - start:.0f} s")
