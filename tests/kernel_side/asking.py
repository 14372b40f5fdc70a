"""Asking a real kernel as the relay does, and all that it publishes."""

from __future__ import annotations

from typing import Any

from sessions import Session
from waiting import PATIENCE


class Asked:
    """A kernel, the latest cell, and the messages that it has published, in order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.client = session.client
        self.last_cell: dict[str, Any] | None = None
        self.heard: list[dict[str, Any]] = []

    def run(self, code: str) -> str:
        """Run a cell to its end; the id of its message."""
        message = self._send(code, {}, silent=False)
        self.last_cell = dict(message["header"])
        self._until_idle(message["msg_id"])
        return str(message["msg_id"])

    def send(self, what: str, **arguments: Any) -> str:
        """Ask, and do not wait."""
        code = (
            "__import__('gpu_share_kernel.asked', fromlist=['answer'])"
            f".answer({what!r}, **{arguments!r})"
        )
        metadata = {"gpu_share": {"last_cell": self.last_cell}}
        return str(self._send(code, metadata, silent=True)["msg_id"])

    def answer(self, sent: str) -> dict[str, Any]:
        """The content of the answer, when the kernel is idle again."""
        self._until_idle(sent)
        (found,) = [each["content"] for each in self._of(sent) if each["msg_type"] == ANSWER]
        return dict(found)

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        return self.answer(self.send(what, **arguments))

    def hear(self, seconds: float = 0.0) -> bool:
        """Take one more message, if one comes; false where none did."""
        try:
            self.heard.append(self.client.get_iopub_msg(timeout=seconds))
        except Exception:  # queue.Empty, by way of zmq
            return False
        return True

    def _of(self, sent: str) -> list[dict[str, Any]]:
        return [each for each in self.heard if each["parent_header"].get("msg_id") == sent]

    def _send(self, code: str, metadata: dict[str, Any], *, silent: bool) -> dict[str, Any]:
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        session = self.client.session
        message = session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return dict(message)

    def _until_idle(self, sent: str) -> None:
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            self.heard.append(message)
            if (
                message["parent_header"].get("msg_id") == sent
                and message["content"].get("execution_state") == "idle"
            ):
                return


ANSWER = "gpu_share_answer"
