"""The command ``replay``, on a trace made here."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.cli import _replay, main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG_DIR", "CONFIG_PATH", "DATA_DIR", "PATH", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trace(folder: Path) -> str:
    """Sessions of one and two GPUs, half of which pause for an hour now and then."""
    chance = random.Random(1)
    rows = ["job_id,num_gpu,submit_time,iterations,model_name,duration,interval"]
    for number in range(40):
        now = chance.randint(2000, 4000) - 40 * number  # so that each begins before the last ends
        for burst in range(30):
            rows.append(f"{burst},{1 + number % 2},{now},0,vgg16,2,0")
            long = number % 2 and chance.random() < 0.4
            now += 2 + (chance.randint(40, 80) if long else chance.randint(1, 12))
    path = folder / "trace.csv.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path.name


@pytest.fixture
def short(folder: Path) -> str:
    """Pauses of 10 and of 40 minutes, of one GPU, and meanwhile a session of another."""
    path = folder / "short.csv"
    rows = ["1,0,5", "1,15,5", "1,60,1", "1,30,4"]
    path.write_text("num_gpu,submit_time,duration\n" + "\n".join(rows))
    return path.name


def configure(folder: Path, text: str) -> None:
    (folder / "jupyter").mkdir()
    (folder / "jupyter" / "jupyter_server_config.py").write_text(text)


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, rc: int = 0) -> str:
        """What it printed; errors where it is to fail."""
        assert main(["replay", *arguments]) == rc
        out, err = self._capsys.readouterr()
        if rc:
            assert out == ""
            assert err.count("\n") == 1
            return err
        assert err == ""
        return out

    def json(self, *arguments: str) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self(*arguments, "--json"))
        return data


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Ran:
    return Ran(capsys)


# -- one policy ------------------------------------------------------------------------------------


def test_the_figures(run: Ran, short: str) -> None:
    options = ("--rule", "fixed", "--timeout", "600", "--wake", "2.5")
    assert run.json(short, *options) == {
        "sessions": 2,
        "bursts": 4,
        "rule": "fixed",
        "idle_gpu_hours": 0.83,
        "returned": 0.6,
        "waiting": 0.5,
        "added_wait": {"median": 2.5, "p95": 2.5},
    }
    text = run(short, *options)
    for words in ("2 sessions, 4 bursts", "fixed, after 10 min", "60.0 %", "50.0 %", "2.5 s"):
        assert words in text


def test_where_nobody_waits_there_is_no_wait(run: Ran, short: str) -> None:
    found = run.json(short, "--rule", "never")
    assert (found["returned"], found["waiting"]) == (0.0, 0.0)
    assert found["added_wait"] == {"median": None, "p95": None}
    assert "added wait, median                        -" in run(short, "--rule", "never")


def test_the_configured_policy_is_replayed(run: Ran, folder: Path, short: str) -> None:
    configure(folder, 'c.IdlePolicy.rule = "fixed"\nc.IdlePolicy.timeout = 1200\n')
    assert run.json(short)["returned"] == 0.4
    assert run.json(short, "--timeout", "600")["returned"] == 0.6
    assert run.json(short, "--rule", "demand")["returned"] == 0.0


def test_the_usual_size_is_the_traces_unless_it_is_configured(
    run: Ran, folder: Path, trace: str
) -> None:
    found = run.json(trace, "--aim", "0.1")
    assert found["rule"] == "adaptive"
    configure(folder, 'c.IdlePolicy.usual_size = "1/4"\n')
    assert run.json(trace, "--aim", "0.1")["returned"] != found["returned"]


def test_parts_of_gpus_are_drawn_by_a_seed(run: Ran, folder: Path, trace: str) -> None:
    (folder / "pods.csv").write_text("num_gpu,gpu_milli\n1,250\n1,500\n1,1000\n")
    whole = run.json(trace)
    one, again, other = (
        run.json(trace, "--sizes", "pods.csv", "--seed", seed) for seed in ("1", "1", "2")
    )
    assert one == again
    assert one["idle_gpu_hours"] != other["idle_gpu_hours"]
    assert one["idle_gpu_hours"] < whole["idle_gpu_hours"]


# -- on so many GPUs -------------------------------------------------------------------------------


def test_both_sides_of_demand_are_told(run: Ran, short: str) -> None:
    options = ("--gpus", "1", "--rule", "demand", "--demand-after", "300", "--wake", "4")
    found = run.json(short, *options)
    assert found["shared"] == {
        "gpus": 1,
        "served": 1,
        "demanded": 1,
        # Its owner is warned for two minutes.
        "first_wait": {"median": 0.0, "p95": 120.0},
        "first_reserved": {"median": 0.0, "p95": 31 * 60.0},
        "owners_lost_hours": 0.0,
        "others_gained_hours": 0.48,
    }
    assert found["waiting"] == 0.5
    assert found["added_wait"] == {"median": 4.0, "p95": 4.0}
    text = run(short, *options)
    assert "owners waited for their share" in text
    assert "others waited less for their first one" in text


def test_too_few_gpus(run: Ran, trace: str) -> None:
    assert "asks for 2 GPUs, and there are 1" in run(trace, "--gpus", "1", rc=1)


# -- curves ----------------------------------------------------------------------------------------


def test_the_curves_side_by_side(run: Ran, trace: str) -> None:
    rows = run.json(trace, "--curve")["curve"]
    assert [row["waiting"] for row in rows] == sorted(row["waiting"] for row in rows)
    for row in rows:
        assert row["longest_first"] <= row["limit"]
        for name in ("fixed", "adaptive", "cross_validated"):
            if row[name]:
                assert 0 < row[name]["returned"] <= row["limit"] + 1e-9
    last = rows[-1]
    assert last["cross_validated"]["returned"] > last["fixed"]["returned"]
    text = run(trace, "--curve")
    assert "CROSS-VALIDATED" in text
    assert f"{100 * rows[-1]['limit']:.1f} %" in text


def test_curves_are_not_of_a_number_of_gpus(run: Ran, trace: str) -> None:
    assert "leave out --gpus" in run(trace, "--curve", "--gpus", "9", rc=1)


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_a_plot(run: Ran, folder: Path, trace: str, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    run(trace, "--plot", name)
    assert (folder / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("name", "says"),
    [("a.jpg", "ending in .svg or .png"), ("no/a.svg", "no folder no"), ("a.svg", "matplotlib")],
)
def test_a_plot_that_cannot_be_is_refused_before_the_work(
    run: Ran, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert says in run("no-trace.csv", "--plot", name, rc=1)


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is called .gz, but is not compressed"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"a,b\n1,2\n"), "has no column submit_time"),
        (gzip.compress(b"num_gpu,submit_time,duration\n"), "has no interval"),
    ],
)
def test_a_bad_file_is_told_in_one_line(
    run: Ran, folder: Path, data: bytes | None, says: str
) -> None:
    if data is not None:
        (folder / "bad.csv.gz").write_bytes(data)
    message = run("bad.csv.gz", rc=1)
    assert message.startswith("gpu-share: ")
    assert says in message


def test_bad_settings_are_told_in_one_line(run: Ran, folder: Path, short: str) -> None:
    assert "between 0 and 1" in run(short, "--aim", "3", rc=1)
    configure(folder, 'c.IdlePolicy.rules = [{"rule": "seldom"}]\n')
    assert "rule is one of" in run(short, rc=1)


@pytest.mark.parametrize(
    "options",
    [["--timeout", "-1"], ["--timeout", "nan"], ["--gpus", "0"], ["--rule", "seldom"], ["--wake"]],
)
def test_wrong_arguments(short: str, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", short, *options])
    assert caught.value.code == 2


def test_it_can_be_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    def work(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(_replay, "replay", work)
    assert main(["replay", short]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_as_users_run_it(short: str) -> None:
    command = [str(Path(sys.executable).with_name("jupyter")), "gpu-share", "replay", short]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "of these returned" in done.stdout
    assert done.stderr == ""
