"""What a kernel has in the cluster, as those see it who talk to the kernel.

A kernel has two sides. The link's side (:class:`~._kernel.PodKernel`) lives in the process of the
user's server and talks to the agent in the pod. The objects' side makes, places, watches and ends
the pod and what belongs to it. It needs rights on the cluster, so it lives in the same process
where that has them, and else in the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from ...allocations import Share
from ...errors import EngineError
from ...size import Size
from .._hash_seed import HASH_SEED
from ..base import Connection, Exit, KernelRequest, Removal, Report
from ._command import flags_of
from ._names import SERVER, annotation, hub_server_name, label
from ._pods import PORTS, size_of

__all__ = ["HUB_SERVER", "HUB_USER", "KernelPlan", "Keys", "Objects", "Owner", "Unfinished"]

#: Annotations by which JupyterHub's dashboards tell whose a pod is.
HUB_USER, HUB_SERVER = "hub.jupyter.org/username", "hub.jupyter.org/servername"


class Unfinished(EngineError):  # noqa: N818
    """A start that an earlier process has left half done, and that cannot be gone on with."""


@dataclass(frozen=True)
class Owner:
    """Whose a kernel's objects are.

    Attributes
    ----------
    server: identity of the Jupyter server, the value of a label. It outlives its processes.
    instance: the process of that server that runs the kernel.
    user: name for people.
    notes: annotations of all objects of the kernel, with their whole names.
    queue: of KAI or Kueue in which the kernel waits; empty: as it is configured for all.
    """

    server: str
    instance: str
    user: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""

    @classmethod
    def of_hub(cls, user: str, server: str, instance: str) -> Owner:
        """A server of a JupyterHub's user; ``server`` is empty for the one without a name.

        Parameters
        ----------
        user, server: as the Hub has proven them, and not as anybody says.
        """
        notes = {HUB_USER: user, HUB_SERVER: server}
        return cls(hub_server_name(user, server), instance, user, notes)

    @classmethod
    def read(cls, obj: Mapping[str, Any]) -> Owner:
        """Whose an object is that is in the cluster, by what stands on it."""
        there = dict(obj["metadata"].get("annotations") or {})
        return cls(
            server=label(obj, SERVER),
            instance=annotation(obj, "instance"),
            user=annotation(obj, "user"),
            notes={name: there[name] for name in (HUB_USER, HUB_SERVER) if name in there},
        )


@dataclass(frozen=True)
class Keys:
    """What a kernel's messages are signed and encrypted with. Nothing of it is printed.

    Attributes
    ----------
    key: signs the messages of the session.
    curve_publickey, curve_secretkey: Z85 text; None where the wire is not encrypted.
    """

    key: bytes = field(repr=False)
    signature_scheme: str = "hmac-sha256"
    curve_publickey: str | None = field(default=None, repr=False)
    curve_secretkey: str | None = field(default=None, repr=False)

    @classmethod
    def new(cls, key: bytes, signature_scheme: str, *, encrypt: bool) -> Keys:
        """Keys for a new pod, with a new pair for the wire where that is encrypted."""
        if not encrypt:
            return cls(key, signature_scheme)
        public, secret = zmq.curve_keypair()
        return cls(key, signature_scheme, public.decode(), secret.decode())

    def connection(self, ip: str) -> Connection:
        """The connection to a kernel with these keys whose pod has this address."""
        return Connection(
            transport="tcp",
            ip=ip,
            ports=PORTS,
            key=self.key,
            signature_scheme=self.signature_scheme,
            curve_publickey=self.curve_publickey,
            curve_secretkey=self.curve_secretkey,
        )


@dataclass(frozen=True)
class KernelPlan:
    """What the objects of one kernel are made from. No command, and no environment.

    Attributes
    ----------
    path: of the notebook; None where there is none.
    language: of the kernelspec. An R kernel has another command, and the same pod.
    flags: of the interpreter in the pod, such as ``-Xfrozen_modules=off``.
    hash_seed: of the kernel's Python; empty for a random one.
    keys: for the kernel's Secret; None once that is there, and for a pod that is taken over.
    """

    kernel_id: str
    kernel_name: str
    size: Size
    path: str | None = None
    language: str = "python"
    flags: tuple[str, ...] = ()
    hash_seed: str = ""
    keys: Keys | None = field(default=None, repr=False)

    @classmethod
    def of(cls, request: KernelRequest, *, encrypt: bool) -> KernelPlan:
        """What a new pod for a kernel is made from, with new keys for its wire."""
        return cls(
            kernel_id=request.kernel_id,
            kernel_name=request.kernel_name,
            size=request.size,
            path=request.path,
            language=request.language,
            flags=flags_of(request.argv),
            hash_seed=request.env.get(HASH_SEED, ""),
            keys=Keys.new(request.key, request.signature_scheme, encrypt=encrypt),
        )

    @classmethod
    def read(cls, pod: Mapping[str, Any]) -> KernelPlan:
        """What a pod that is in the cluster tells of its kernel. Its keys are in its Secret.

        Raises
        ------
        SizeError: it tells of a size that is none.
        """
        return cls(
            kernel_id=annotation(pod, "kernel-id"),
            kernel_name=annotation(pod, "kernel-name"),
            size=size_of(pod),
            path=annotation(pod, "path") or None,
        )


class Objects(Protocol):
    """The objects of one kernel. Belongs to the event loop that it is used on.

    Made without any I/O. Exactly one of :meth:`start` and :meth:`adopt` is called, once; whatever
    comes of it, :meth:`delete` is called in the end.

    Attributes
    ----------
    on_leave: set by the link's side; called when the pod is to end and nothing of it is to be
        saved: the agent is to be told.
    """

    on_leave: Callable[[], None]

    @property
    def name(self) -> str:
        """Name of the pod."""

    @property
    def share(self) -> Share | None:
        """The share, as the cluster gives it, whatever the kernel's language; None: not yet."""

    @property
    def note(self) -> str:
        """What the size was rounded to, a sentence; empty where it is exact."""

    @property
    def detachable(self) -> bool:
        """Whether the share can go and come back while the kernel lives."""

    @property
    def lent(self) -> bool:
        """Whether the share was given back, if perhaps not yet for sure."""

    @property
    def there(self) -> bool:
        """Whether the pod is there and this process's, has not ended, and nobody ends it."""

    @property
    def lost(self) -> bool:
        """Whether another process of the same server has the pod."""

    @property
    def made(self) -> bool:
        """True from the first attempt to create anything until all of it was deleted."""

    @property
    def unanswered(self) -> bool:
        """Whether it is not known what became of something that was asked of the cluster."""

    @property
    def removal(self) -> Removal | None:
        """That somebody else ends the pod, and the time that is left; None: nobody does."""

    async def start(self, report: Report) -> Connection:
        """Make the objects, wait for a place, and until the kernel's container runs.

        The share is known when it returns. Cancelling gives up waiting; what was made is still
        there, until :meth:`delete`.

        Raises
        ------
        KernelStartError, NoGpuError, EngineError
        """

    async def adopt(self, before: str, report: Report) -> Connection:
        """Take over the pod of an earlier process of the server: it is written that it is ours.

        The agent is greeted with what this returns, then :meth:`settle` is called.

        Parameters
        ----------
        before: the process whose it was, which has ended.

        Raises
        ------
        Owned: another process was faster.
        KernelStartError, EngineError
        """

    async def settle(self, report: Report) -> None:
        """Find the share of a pod that was taken over, and take it again where it was given back.

        Raises
        ------
        KernelStartError, EngineError: it is gone, or cannot be had.
        """

    async def give_back(self) -> None:
        """Give the share back; where that is not answered for long, it goes on by itself.

        Raises
        ------
        EngineError: it is known that it is still held.
        """

    async def take_back(self, report: Report) -> Share:
        """Hold the share again, waiting as long as it takes.

        However it ends other than by returning, no share is held: it sees to that itself.

        Raises
        ------
        EngineError: the pod has ended.
        """

    async def withdraw(self) -> None:
        """Hold no share, whatever has come of an attempt to take it again."""

    async def planned(self, size: Size) -> tuple[Share, bool] | None:
        """The share of another size on the same GPU; None: there is none, or not now.

        The second is whether the kernel may stay on its GPU while that is changed.
        """

    async def change(self, size: Size) -> Share:
        """Hold another size, at no moment less than the smaller.

        Raises
        ------
        EngineError: that is not possible, or not now. What was held is held.
        """

    async def note_path(self, path: str | None) -> None:
        """Have the cluster know where the kernel's notebook is now.

        Raises
        ------
        EngineError: others still see the old one.
        """

    async def removed(self) -> Removal:
        """Wait until somebody else ends the pod; it is left alone until :meth:`let_go`."""

    def let_go(self) -> None:
        """Nothing is to be saved of a pod that is to end: it ends in order."""

    def leaving(self, grace: float) -> None:
        """The agent says that its pod was told to end.

        Parameters
        ----------
        grace: seconds that it has, where the cluster does not say.
        """

    async def ended(self) -> Exit:
        """Wait until the pod has ended, has lost its share, or is another process's.

        It does not end by the end of the kernel's own process, which only the agent knows. Where
        the share is lost the kernel may still run: whoever waits here tells the agent to quit.
        """

    async def delete(self) -> None:
        """Delete all of it; who waits here for anything is told that the kernel was shut down.

        Returns after a moment where the cluster does not answer: then it goes on by itself.
        """

    async def settled(self, patience: float | None = None) -> bool:
        """Wait until nothing is :attr:`unanswered`; false where ``patience`` seconds were short."""

    async def last_words(self, lines: int = 10) -> str:
        """What the kernel printed last; empty where that cannot be read."""

    async def close(self) -> None:
        """End at once what still goes on by itself: the process is about to end."""
