"""What a server tells a machine's broker of idle shares, where an answer is lost."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.broker.client import BrokerAway
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.local import _brokered
from jupyter_gpu_share.engines.local._brokered import BrokeredLedger


class Listener:
    """Hears once that somebody waits."""

    alive = True

    def __init__(self, path: Path) -> None:
        self.heard = [False, True]

    def wanted(self) -> bool:
        return bool(self.heard) and self.heard.pop(0)

    def close(self) -> None:
        pass


def test_who_waits_is_told_of_again_where_the_answer_was_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_brokered, "_Listener", Listener)
    ledger = BrokeredLedger(tmp_path / "no-socket")
    answers: list[Any] = [
        {"wanted": {}, "taken": [], "waiting": False},
        BrokerAway("away"),
        {"wanted": {"a": 5.0}, "taken": [], "waiting": True},
    ]

    def ask(*what: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ledger._client, "ask", ask)
    idle = {"a": IdleShare(datetime.now(timezone.utc))}
    assert ledger.wanted(idle) == {}
    assert ledger.wanted(idle) == {}  # it heard of somebody, and the broker was away
    assert set(ledger.wanted(idle)) == {"a"}
    assert not answers
    ledger.close()
