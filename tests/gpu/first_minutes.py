#!/usr/bin/env python3
"""What nobody has seen yet on a GPU, asked in minutes; docs/checkpoint.md says what is open.

    python tests/gpu/first_minutes.py [--python PYTHON] [--budget 420] [--only a,b] [--skip a,b]
    python tests/gpu/first_minutes.py --last    # after all else: ends processes that came back

PYTHON has PyTorch for CUDA and `cuda-bindings`; this one is taken where none is named. Each
question has a process of its own with a time limit, so that one that hangs or crashes is an answer,
too. Its row is a line of JSON on the standard output, and in the file that `--out` names, as soon
as it is there:

    {"q": …, "asks": …, "result": "ok|error|hung|crashed|skipped", "seconds": …, facts}

Processes that were moved off and back are moved off once more before they end: NVIDIA's
cuda-checkpoint issue 53 tells of machines that hang when one is killed (driver 595). `--last` tries
that, alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from gpu_questions import QUESTIONS, Question

HERE = Path(__file__).resolve().parent
KERNEL_SIDE = HERE.parent.parent / "jupyter_gpu_share" / "kernel_side"
GIB = 2**30
#: Seconds that a process has to end once it has answered, and once it was killed.
_ENDING = 20.0
#: Seconds below which no question is begun any more.
_LEAST = 10.0

Tell = Callable[[Mapping[str, Any]], None]


def environment(python: str, env: Mapping[str, str]) -> dict[str, str]:
    """Of a process that has a share of 20 GiB of the first GPU, or of all that it has.

    Raises
    ------
    RuntimeError: there is no GPU that answers.
    """
    paths = [str(HERE), str(KERNEL_SIDE), env.get("PYTHONPATH", "")]
    full = {**env, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [python, "-S", str(HERE / "gpu_asked.py"), "--nvml", "0"],
        env={**full, "JUPYTER_GPU_SHARE_UUID": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    found = json.loads(done.stdout)
    return {
        **full,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": found["uuid"],
        "JUPYTER_GPU_SHARE_UUID": found["uuid"],
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(min(20 * GIB, found["total"])),
        "JUPYTER_GPU_SHARE_ISOLATION": "framework",
    }


def ask(question: Question, python: str, env: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """The row of a question, `seconds` after its process began at the latest."""
    reader, writer = os.pipe()
    begun = time.monotonic()
    process = subprocess.Popen(
        [python, str(HERE / "gpu_asked.py"), question.name],
        env={**env, **question.env, "FIRST_MINUTES_OUT": str(writer)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(writer,),
        start_new_session=True,
    )
    os.close(writer)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _kill(process)

    errors: list[bytes] = []
    assert process.stderr is not None
    eater = threading.Thread(target=_eat, args=(process.stderr, errors), daemon=True)
    eater.start()
    timer = threading.Timer(seconds, give_up)
    timer.start()
    facts: dict[str, Any] = {}
    with os.fdopen(reader, errors="replace") as stream:
        last, done = _follow(stream, facts)
    if done:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING)
    timer.cancel()
    if done and process.poll() is None:
        facts["ending"] = f"did not end within {_ENDING:g} s"
    if not done and not late.is_set():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING)  # it has closed its pipe, and is about to end
    _kill(process)  # with what it has left behind
    try:
        process.wait(_ENDING)
    except subprocess.TimeoutExpired:
        facts["ending"] = "cannot be killed"
    eater.join(_ENDING)
    process.stderr.close()
    result = ("error" if "error" in facts else "ok") if done else "crashed"
    if not done and late.is_set():
        result = "hung"
    row = {
        "q": question.name,
        "asks": question.asks,
        "result": result,
        "seconds": round(time.monotonic() - begun, 1),
    }
    if result != "ok":
        said = b"".join(errors).decode("utf-8", "replace").strip()[-600:]
        row.update(last=last, exit=process.returncode, stderr=said)
    return {**row, **facts}


def _follow(stream: Iterable[str], facts: dict[str, Any]) -> tuple[str, bool]:
    """Take down what a process tells; its last step, and whether it came to its end."""
    last = "begun"
    for line in stream:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        last = told.pop("step", last)
        if told.pop("done", False):
            return last, True
        facts.update(told)
    return last, False


def _eat(stream: IO[bytes], into: list[bytes]) -> None:
    for piece in iter(lambda: stream.read1(65536), b""):  # type: ignore[attr-defined]
        into.append(piece)
        del into[:-16]


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def run(
    questions: Iterable[Question],
    tell: Tell,
    *,
    python: str,
    env: Mapping[str, str],
    budget: float,
    jobs: int,
) -> dict[str, int]:
    """Ask them; how many came to which result.

    Those that measure a whole GPU run alone, before and after the others; what NVIDIA says it does
    not support comes last.
    """
    deadline = time.monotonic() + budget
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def one(question: Question) -> None:
        left = deadline - time.monotonic()
        if left < _LEAST:
            row = {"q": question.name, "asks": question.asks, "result": "skipped"}
        else:
            row = ask(question, python, env, min(question.seconds, left))
        with lock:
            counts[row["result"]] = counts.get(row["result"], 0) + 1
            tell(row)

    rows = list(questions)
    together = [each for each in rows if not each.alone]
    together.sort(key=lambda each: (each.risky, -each.seconds))
    for each in rows:
        if each.alone == "before":
            one(each)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, together))
    for each in rows:
        if each.alone == "after":
            one(each)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="has PyTorch and cuda-bindings")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for all of it")
    parser.add_argument("--jobs", type=int, default=6, help="questions at once")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--skip", default="")
    parser.add_argument("--last", action="store_true", help="end processes that came back")
    parser.add_argument("--out", type=Path, help="a file that the rows are added to")
    asked = parser.parse_args()
    only, skip = (set(filter(None, text.split(","))) for text in (asked.only, asked.skip))
    if unknown := (only | skip) - QUESTIONS.keys():
        parser.error(f"there is no question {', '.join(sorted(unknown))}")
    chosen = [
        each
        for each in QUESTIONS.values()
        if each.last == asked.last and (not only or each.name in only) and each.name not in skip
    ]
    try:
        env = environment(asked.python, os.environ)
    except RuntimeError as error:
        print(f"There is no GPU to ask: {error}", file=sys.stderr)
        return 1

    def tell(row: Mapping[str, Any]) -> None:
        line = json.dumps(row, default=str, ensure_ascii=False)
        print(line, flush=True)
        if asked.out:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())  # the next question may take the machine down

    counts = run(chosen, tell, python=asked.python, env=env, budget=asked.budget, jobs=asked.jobs)
    tell({"q": "all", "result": counts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
