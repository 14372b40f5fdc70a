"""The command that saves what a script leaves, and the same in plain Python and IPython."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

pytestmark = pytest.mark.slow

SCRIPT = """
import dataclasses, json, sys
import numpy as np
import helper
@dataclasses.dataclass
class Run:
    rate: float
    steps: list
def double(n): return 2 * n * helper.FACTOR
words = sys.argv[1:]
run = Run(0.1, words); same = run.steps
base = np.arange(12.0); view = base[3:]
Out = "the user's own"; exit = None
helper.FACTOR = 5
print("the script ran")
if __name__ == "__main__":
    sys.exit(0)
"""
LOOK = (
    "import helper, sys; same.append('more'); base[4] = -1; "
    "print(double(2), run.steps, view[1], Out, exit, sys.argv, helper.FACTOR, __name__)"
)
KEEP = "good = [1, 2]\nnumbers = (n for n in good)\n"
#: Comes to light only where the file is read back.
LATE = (
    "class Failed(Exception):\n"
    "    def __init__(self, trial, why): super().__init__(trial)\n"
    "failed = Failed(1, 'nan')\n"
)


class Place:
    """A folder, and programs that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "state.kept"
        self.home = folder / "home"
        self.home.mkdir()

    def script(self, text: str, name: str = "train.py") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def python(
        self, *words: object, code: int = 0, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python; its exit code has to be ``code``."""
        usual = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "IPYTHON"))}
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env={**usual, "HOME": str(self.home), "PYTHONPATH": str(PATH), **env},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def run(self, *words: object, code: int = 0, **how: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        done = self.python("-m", "gpu_share_kernel.snapshot", *words, code=code, **how)
        left = [path.name for path in self.folder.iterdir() if path.name.startswith("state.kept.")]
        assert left == [], "it leaves no other file"
        return done


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def one_line(text: str) -> str:
    """What is said on one line, and is no traceback."""
    assert text.startswith("gpu-share: ") and text.count("\n") == 1, text
    return text


def test_what_a_script_leaves_comes_back_for_code_a_script_and_a_prompt(place: Place) -> None:
    place.script("FACTOR = 1", "helper.py")
    script = place.script(SCRIPT)
    done = place.run("save", "state.kept", script.name, "a", "--rate", "3")
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "the script ran"
    assert second.startswith("state.kept: ") and "it was read back" in second
    assert place.file.stat().st_mode & 0o777 == 0o600
    said = "20 ['a', '--rate', '3', 'more'] -1.0 the user's own None {} 5 __main__"
    done = place.run("load", "state.kept", "-c", LOOK, "x", "-y")
    assert done.stdout.strip() == said.format(["-c", "x", "-y"])
    assert "variables are back" in one_line(done.stderr.replace("state.kept: ", ""))
    place.script(LOOK, "next.py")
    done = place.run("load", "state.kept", "next.py", "--b")
    assert done.stdout.strip() == said.format(["next.py", "--b"])
    done = place.run("load", "state.kept", stdin=LOOK + "\n")
    assert "20 ['a', '--rate', '3', 'more'] -1.0" in done.stdout


def test_what_is_lost_is_listed_and_nothing_is_written(place: Place) -> None:
    script = place.script(KEEP + LATE)
    place.file.write_bytes(b"of an earlier save")
    done = place.run("save", "state.kept", script.name, code=1)
    assert done.stdout == ""
    assert "generator `numbers`: " in done.stderr
    assert "`failed`: " in done.stderr
    assert place.file.read_bytes() == b"of an earlier save"
    done = place.run("save", "--allow-lost", "state.kept", script.name)
    assert "generator `numbers`: " in done.stderr
    done = place.run("load", "state.kept", "-c", "print(good, 'failed' in globals())")
    assert done.stdout.strip() == "[1, 2] False"
    done = place.run("check", "state.kept")
    assert "generator `numbers`: " in done.stdout
    assert "All that was saved comes back." in done.stdout


def test_work_that_would_stop_is_told(place: Place) -> None:
    script = place.script(
        "import threading\nstop = None\n"
        "def work(event=threading.Event()): event.wait()\n"
        "threading.Thread(target=work, name='watch', daemon=True).start()\ndel work\n"
    )
    done = place.run("save", "state.kept", script.name, code=1)
    assert "thread `watch`" in done.stderr
    assert not place.file.exists()


def test_a_check_names_what_would_not_come_back_here(place: Place) -> None:
    place.script("class Thing: pass", "helper.py")
    script = place.script("import helper\nthing = helper.Thing(); other = [1]\n")
    place.run("save", "state.kept", script.name)
    found = json.loads(place.run("check", "--json", "state.kept").stdout)
    assert (found["missing"], sorted(found["names"])) == ([], ["helper", "other", "thing"])
    assert found["bytes"] == place.file.stat().st_size
    (place.folder / "helper.py").unlink()
    done = place.run("check", "state.kept", code=1)
    assert "`thing`: the module helper is not here" in done.stderr
    assert "Python 3." in done.stdout and "UTC" in done.stdout
    found = json.loads(place.run("check", "--json", "state.kept", code=1).stdout)
    assert {row["name"] for row in found["missing"]} == {"helper", "thing"}
    done = place.run("load", "state.kept", "-c", "print('ran')", code=1)
    assert "`thing`: " in done.stderr and "ran" not in done.stdout
    done = place.run("load", "--allow-lost", "state.kept", "-c", "print(other)")
    assert done.stdout.strip() == "[1]"


def test_a_check_of_what_ends_its_process_says_so(place: Place) -> None:
    script = place.script(
        "import os\ndef end(number): os.kill(os.getpid(), number)\n"
        "class Last:\n    def __reduce__(self): return end, (9,)\nlast = Last()\n"
    )
    place.run("save", "--no-proof", "state.kept", script.name)
    done = place.run("check", "state.kept", code=1)
    assert "has ended by signal 9" in one_line(done.stderr)


def test_json_is_all_that_stdout_gets(place: Place) -> None:
    script = place.script("import os\n" + KEEP + "print('noise'); os.system('echo more')\n")
    done = place.run("save", "--json", "state.kept", script.name, code=1)
    found = json.loads(done.stdout)
    assert (found["written"], [row["name"] for row in found["lost"]]) == (False, ["numbers"])
    assert "noise" in done.stderr and "more" in done.stderr
    found = json.loads(place.run("save", "--json", "--allow-lost", "state.kept", script).stdout)
    assert found["written"] and {"good", "os"} == set(found["names"])


def test_what_a_user_does_wrong_is_one_line(place: Place) -> None:
    place.script("x = 1")
    place.run("save", "state.kept", "train.py")
    good = place.file.read_bytes()
    (place.folder / "damaged").write_bytes(good[:-4])
    (place.folder / "none").write_bytes(b"something else")
    for words, said in (
        (("load", "missing", "-c", "1"), "missing: The snapshot cannot be read: No such file"),
        (("check", "missing"), "missing: The snapshot cannot be read: No such file"),
        (("load", "missing"), "missing: The snapshot cannot be read: No such file"),
        (("check", "damaged"), "damaged: The snapshot is damaged: it is cut off"),
        (("load", "none", "-c", "1"), "it is no snapshot"),
        (("load", ".", "-c", "1"), "it is no plain file"),
        (("save", "a", "missing.py"), "missing.py cannot be read: No such file"),
        (("save", "no/where/a", "train.py"), "no/where/a cannot be written: there is no folder"),
        (("save", ".", "train.py"), ". cannot be written: it is a folder"),
    ):
        assert said in one_line(place.run(*words, code=1).stderr), words
    assert "-c needs code" in one_line(place.run("load", "state.kept", "-c", code=2).stderr)
    options = place.run("load", "state.kept", "--allow-lost", code=2)
    assert "stands before the file" in one_line(options.stderr)
    assert "usage" in place.run("load", code=2).stderr


def test_a_script_that_fails_is_not_saved(place: Place) -> None:
    place.script("x = 1\nraise ValueError('no rate')\n")
    done = place.run("save", "state.kept", "train.py", code=1)
    assert "state.kept is not written: train.py has failed." in done.stderr
    assert 'train.py", line 2' in done.stderr
    assert "command.py" not in done.stderr, "nothing of ours is in its traceback"
    place.script("import sys\nx = 1\nsys.exit(7)\n")
    place.run("save", "state.kept", "train.py", code=7)
    assert not place.file.exists()
    place.script("x = 1")
    place.run("save", "state.kept", "train.py")
    place.run("load", "state.kept", "-c", "raise SystemExit(x + 2)", code=3)


def test_what_others_can_have_written_is_not_loaded(place: Place) -> None:
    script = place.script(
        "import os\ndef mark(): open('ran', 'w').close(); return Evil()\n"
        "class Evil:\n    def __reduce__(self): return mark, ()\nevil = Evil()\n"
    )
    place.run("save", "--no-proof", "state.kept", script.name)
    attacks: list[tuple[Any, str]] = [
        (lambda: place.file.chmod(0o620), "others can write to it"),
        (lambda: place.file.chmod(0o602), "others can write to it"),
    ]
    if os.getuid() == 0:
        attacks.append((lambda: os.chown(place.file, 65534, 65534), "belongs to somebody else"))
    for attack, why in attacks:
        attack()
        for words in (("load", "state.kept", "-c", "1"), ("check", "state.kept")):
            assert why in one_line(place.run(*words, code=1).stderr)
        done = place.python(
            "-c", "from gpu_share_kernel import snapshot; snapshot.restore('state.kept')", code=1
        )
        assert "Refused: The snapshot is not loaded: " in done.stderr and why in done.stderr
        assert not (place.folder / "ran").exists()
        place.file.chmod(0o600)
    os.chown(place.file, os.getuid(), os.getgid())
    place.run("load", "state.kept", "-c", "1")
    assert (place.folder / "ran").exists()


def test_plain_python_saves_its_own_variables_and_is_as_it_was(place: Place) -> None:
    """Nothing of the shell that is lent for it stays."""
    state = (
        "import sys, warnings, builtins, atexit\n"
        "class Probe:\n"
        "    def __eq__(self, other): self.seen.append(other)\n"
        "def state():\n"
        "    probe = Probe(); probe.seen = []; atexit.unregister(probe)  # is compared with all\n"
        "    ipython = sys.modules.get('IPython')\n"
        "    return [sorted(k for k in globals() if k != 'before'), list(sys.path),\n"
        "            list(warnings.filters), sorted(vars(builtins)), hasattr(sys, 'ps1'),\n"
        "            sys.excepthook is sys.__excepthook__,\n"
        "            [each for each in map(str, probe.seen) if 'atexit_operations' in each],\n"
        "            ipython.get_ipython() if ipython else None]\n"
    )
    first = place.script(
        "import logging, IPython\nfrom gpu_share_kernel import snapshot\n"
        + state
        + "class Point: pass\npoint = Point(); point.x = [1]; x = point.x; In = 'mine'\n"
        "snapshot.survey()\nbefore = state()\n"
        "assert snapshot.survey()['lost'] == [], snapshot.survey()\n"
        "found = snapshot.save('state.kept', seconds=60.0)\n"
        "del found\nassert state() == before, (state(), before)\n"
    )
    place.python(first)
    second = place.script(
        "import IPython\nfrom gpu_share_kernel import snapshot\n"
        + state
        + "snapshot.survey()\nsys.earlier = state()\nfound = snapshot.restore('state.kept')\n"
        "assert found['failed'] == [], found\nassert point.x is x and In == 'mine'\n"
        "names = {'Point', 'point', 'x', 'In', 'first', 'logging', 'found'}\n"
        "for name in names: globals().pop(name, None)\ndel names, name\n"
        "del before\nassert state()[0] == sys.earlier[0], state()[0]\n"
        "assert state()[3:] == sys.earlier[3:], state()[3:]\n",
        "second.py",
    )
    place.python(second)
    assert not list(place.home.rglob("*")), "and no file"


def test_ipython_without_a_kernel_saves_its_own(place: Place) -> None:
    save = "from gpu_share_kernel import snapshot; rows = [1]; again = rows; rows\n"
    save += "print(snapshot.save('state.kept', seconds=60.0)['lost'])\n"
    done = place.python("-m", "IPython", "--simple-prompt", stdin=save)
    assert "[]" in done.stdout
    load = "from gpu_share_kernel import snapshot; found = snapshot.restore('state.kept')\n"
    load += "print(found['failed'], rows is again, Out[1] is rows, len(In))\n"
    done = place.python("-m", "IPython", "--simple-prompt", stdin=load)
    assert "[] True True" in done.stdout


def test_what_only_a_kernel_has_is_missing_elsewhere(place: Place) -> None:
    """What was the kernel's own has no counterpart in a script."""
    first = place.script(
        "import IPython\nfrom gpu_share_kernel.snapshot import shells, saving\n"
        "with shells.lent():\n"
        "    here = IPython.get_ipython(); here.kernel = type('Kernel', (), {})()\n"
        "    mine = [here.kernel]; other = [1]; del here\n"
        "    saving.save('state.kept')\n"
    )
    place.python(first)
    done = place.run("check", "state.kept", code=1)
    assert "`mine`: " in done.stderr and "no such kernel here" in done.stderr
    assert "`other`" not in done.stderr


def test_hashes_of_texts_that_are_others_are_told(place: Place) -> None:
    script = place.script(
        "class Key:\n"
        "    def __init__(self, name): self.name, self.hash = name, hash(name)\n"
        "    def __hash__(self): return self.hash\n"
        "    def __eq__(self, other): return self.name == other.name\n"
        "found = {Key('a'): 1}\n"
    )
    place.run("save", "state.kept", script.name, PYTHONHASHSEED="7")
    look = ("load", "state.kept", "-c", "print(found[Key('a')])")
    assert place.run(*look, PYTHONHASHSEED="7").stdout.strip() == "1"
    done = place.run(*look, code=1, PYTHONHASHSEED="8")
    assert "start Python with PYTHONHASHSEED=7" in done.stderr
    assert "PYTHONHASHSEED=7" in place.run("check", "state.kept", code=1).stderr


def test_what_belongs_to_a_module_is_the_modules_own(place: Place) -> None:
    """It is referred to before anything has imported the module."""
    script = place.script("import numpy as np\nusual = [np.random.mtrand._rand]\n")
    place.run("save", "state.kept", script.name)
    done = place.run("load", "state.kept", "-c", "print(usual[0] is np.random.mtrand._rand)")
    assert done.stdout.strip() == "True"
