"""The subshells of a kernel's process, as its control channel tells."""

from __future__ import annotations

from collections.abc import Iterable

from ._wire import parts

__all__ = ["Subshells"]

_KINDS = frozenset({"create_subshell_reply", "delete_subshell_request", "delete_subshell_reply"})


class Subshells:
    """Ids of the subshells that a process has. :attr:`ids` may be read by any thread."""

    def __init__(self) -> None:
        self.ids: tuple[str, ...] = ()
        self._ending: dict[str, str] = {}

    def concerns(self, kind: str) -> bool:
        """Whether a message of that type is to be noted."""
        return kind in _KINDS

    def note(self, frames: list[bytes]) -> None:
        """Take note of a request or a reply that passes."""
        header, parent, content = parts(frames)
        kind, subshell = header.get("msg_type"), content.get("subshell_id")
        if kind == "create_subshell_reply" and isinstance(subshell, str):
            self.add([subshell])
        elif kind == "delete_subshell_request" and isinstance(subshell, str):
            self._ending[str(header.get("msg_id"))] = subshell
        elif kind == "delete_subshell_reply":
            gone = self._ending.pop(str(parent.get("msg_id")), None)
            if content.get("status") == "ok":
                self.ids = tuple(each for each in self.ids if each != gone)

    def add(self, ids: Iterable[str]) -> None:
        """The process has these, too."""
        self.ids += tuple(each for each in ids if each not in self.ids)

    def forget(self) -> None:
        """Another process is there, and has none."""
        self.ids = ()
        self._ending.clear()
