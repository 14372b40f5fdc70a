"""The first minutes on a GPU: 32 questions; and a dry run of them on a FAKE driver."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import first_minutes
import pytest
from driver.fake_driver import FakeDriver
from first_minutes import QUESTIONS, Question, ask, environment
from gpu_process import PYTHON, missing

HERE = Path(__file__).parent
DRIVER = HERE.parent / "driver"
FIRST = [each for each in QUESTIONS.values() if not each.last]
#: Seconds for all of them on a GPU.
BUDGET = 420.0
#: Calls of threads that truly come to the fake driver in a dry run.
CALLS = ("empty_cache", "event", "mem_get_info", "stream", "synchronize")


def test_there_are_32_and_two_for_after_all_else() -> None:
    assert len(FIRST) == 32
    assert sorted(QUESTIONS.keys() - {each.name for each in FIRST}) == [
        "killed_away",
        "killed_restored",
    ]
    assert [each.name for each in FIRST if each.alone] == ["speed", "machine", "basic"]


@pytest.mark.timeout(BUDGET + 120)
def test_the_first_minutes_on_this_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Printed, not asserted, but for the two without which all else has no meaning."""
    if missing():
        pytest.skip(missing())
    rows: dict[str, Mapping[str, Any]] = {}

    def tell(row: Mapping[str, Any]) -> None:
        rows[row["q"]] = row
        with capsys.disabled():
            print(json.dumps(row, default=str, ensure_ascii=False), flush=True)

    env = environment(PYTHON, os.environ)
    first_minutes.run(FIRST, tell, python=PYTHON, env=env, budget=BUDGET, jobs=6)
    assert {name: rows[name]["result"] for name in ("machine", "basic")} == {
        "machine": "ok",
        "basic": "ok",
    }
    assert not [name for name, row in rows.items() if row["result"] == "skipped"], "out of time"


# -- a dry run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process on a FAKE driver with a FAKE PyTorch that computes nothing."""
    driver = FakeDriver(tmp_path_factory.mktemp("dry") / "driver")
    path = os.pathsep.join(map(str, [HERE / "dry", DRIVER]))
    env = {**os.environ, **driver.env, "PYTHONPATH": path, "FIRST_MINUTES_SCALE": "0.01"}
    env["JUPYTER_GPU_SHARE_UUID"] = ""
    yield environment(sys.executable, env)
    driver.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(QUESTIONS))
def test_each_question_runs_to_its_end_on_a_fake_driver(name: str, dry: dict[str, str]) -> None:
    """What it finds there is no answer; that it names nothing that is not there any more, is."""
    pytest.importorskip("cuda.bindings.driver", reason="`cuda-bindings` is not installed")
    row = ask(QUESTIONS[name], sys.executable, dry, 60)
    assert row["result"] == "ok", row
    untold = {key: value for key, value in row.items() if key.endswith(("not_off", "not_back"))}
    assert not untold, row
    if name.removeprefix("gil_") in CALLS:
        assert (row["waits"], row["finished"]) == (True, True)


def test_the_questions_move_what_they_are_about(dry: dict[str, str]) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="`cuda-bindings` is not installed")
    row = ask(QUESTIONS["repeated"], sys.executable, dry, 60)
    assert len(row["rows"]) == 10
    assert row["left"] == "moved off before the end"


@pytest.mark.parametrize(
    ("code", "result", "last"),
    [
        ("import time; step('hang'); time.sleep(600)", "hung", "hang"),
        ("import os; step('die'); os.abort()", "crashed", "die"),
        ("step('fail'); say(so_far=1); 1 / 0", "error", "fail"),
        ("say(so_far=1)", "ok", None),
    ],
)
def test_a_process_that_hangs_or_dies_is_an_answer(
    code: str,
    result: str,
    last: str | None,
    dry: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "gpu_questions.py").write_text(
        "import types\nfrom gpu_asked import say, step\n"
        f"def ask():\n    {code}\n"
        "QUESTIONS = {'made_up': types.SimpleNamespace(ask=ask)}\n"
    )
    shutil.copy(HERE / "gpu_asked.py", tmp_path)
    monkeypatch.setattr(first_minutes, "HERE", tmp_path)
    row = ask(Question("made_up", "", lambda: None), sys.executable, dry, 3)
    assert (row["result"], row.get("last")) == (result, last), row


def test_what_is_left_when_the_time_is_up_is_told(dry: dict[str, str]) -> None:
    rows: list[Mapping[str, Any]] = []
    counts = first_minutes.run(FIRST, rows.append, python=sys.executable, env=dry, budget=0, jobs=2)
    assert counts == {"skipped": 32}
    assert len(rows) == 32
