"""The command: what a script leaves is saved, looked at, and brought back.

::

    python -m gpu_share_kernel.snapshot save FILE SCRIPT [ARGUMENT ...]
    python -m gpu_share_kernel.snapshot check FILE
    python -m gpu_share_kernel.snapshot load FILE [-c CODE | SCRIPT [ARGUMENT ...]]

A script runs as Python runs it, in a ``__main__`` of its own. What is found goes to stdout, what is
lost or refused to stderr; with ``--json`` all but the data goes to stderr.

Exit codes: 0 done, 1 refused, or something is lost, 2 wrong arguments, 130 interrupted; that of the
script where it fails.
"""

import argparse
import builtins
import datetime as dt
import json
import os
import subprocess
import sys
import types

from gpu_share_kernel import background
from gpu_share_kernel.snapshot import pickles, proof, records, restoring, saving, shells
from gpu_share_kernel.snapshot.words import Refused, amount, strerror

__all__ = ["main", "read_back"]

_PROG = "python -m gpu_share_kernel.snapshot"
_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import sys; sys.path.insert(0, {folder!r}); from gpu_share_kernel.snapshot import command; "
    "sys.path.remove({folder!r}); command.read_back({number!r})"
)
#: Seconds for reading back: whoever waits in front of it can interrupt.
_PATIENCE = 7 * 24 * 3600.0


class _Stop(Exception):  # noqa: N818 - how the command ends
    """Ends the command with a line for the user, and an exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


def main(words, prog=_PROG):
    """Run the command; its exit code.

    Parameters
    ----------
    words: its arguments.
    prog: how it was called, for the help.
    """
    arguments = _parser(prog).parse_args(words)
    try:
        return arguments.run(arguments)
    except Refused as error:
        _say("%s: %s" % (arguments.file, error))
        return 1
    except _Stop as stop:
        _say(str(stop))
        return stop.code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _parser(prog):
    about = "Save the variables of a script in a file, look at it, and bring them back."
    parser = argparse.ArgumentParser(prog=prog, description=about)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True

    def add(name, run, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    save = add("save", _save, "Run a script, and save the variables that it leaves.")
    save.add_argument("--allow-lost", action="store_true", help="leave out what cannot be saved")
    save.add_argument("--no-proof", action="store_true", help="do not read the file back")
    save.add_argument("--json", action="store_true", help="print what was saved as JSON")
    save.add_argument("file", metavar="FILE", help="to write; nobody else can read it")
    save.add_argument("script", metavar="SCRIPT", help="of Python")
    save.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER)

    check = add("check", _check, "Say what of a file would not come back here.")
    check.add_argument("--json", action="store_true", help="print what was found as JSON")
    check.add_argument("file", metavar="FILE")

    load = add(
        "load",
        _load,
        "Bring the variables of a file back, and run a script or code with them; without either, "
        "open a prompt of IPython.",
    )
    load.add_argument("--allow-lost", action="store_true", help="run it whatever is missing")
    load.add_argument("file", metavar="FILE")
    load.add_argument(
        "words", metavar="-c CODE | SCRIPT", nargs=argparse.REMAINDER, help="with its arguments"
    )
    return parser


def _say(text):
    print("gpu-share: %s" % text, file=sys.stderr)


# -- save ------------------------------------------------------------------------------------------


def _save(arguments):
    target = os.path.abspath(arguments.file)
    _check_place(target, arguments.file)
    source = _read(arguments.script)
    _check_needs()
    output = _apart() if arguments.json else None
    space = _fresh(arguments.script, arguments.arguments)
    code = _run(source, arguments.script, space)
    if code:
        raise _Stop("%s is not written: %s has failed." % (arguments.file, arguments.script), code)
    work = background.running()
    temporary = "%s.%d.new" % (target, os.getpid())
    seconds = None if arguments.no_proof else _PATIENCE
    manifest = saving.save(temporary, seconds=seconds)
    lost = manifest["lost"]
    lost += [{"name": "", "what": line, "why": "it ends with the process"} for line in work]
    written = not lost or arguments.allow_lost
    try:
        if written:
            os.replace(temporary, target)
        else:
            os.unlink(temporary)
    except OSError as error:
        raise Refused("The snapshot cannot be written: %s." % strerror(error)) from error
    if output is not None:
        keys = ("variables", "bytes", "names", "lost", "versions")
        found = {key: manifest[key] for key in keys}
        _print_json(dict(found, file=target, written=written), output)
    elif written:
        proven = "" if arguments.no_proof else "; it was read back, and all of that is the same"
        print("%s: %s%s." % (arguments.file, _size(manifest, manifest["bytes"]), proven))
    if lost and not written:
        how = "save again with --allow-lost to leave it out"
        _say("%s is not written, for this would be lost; %s:" % (arguments.file, how))
    elif lost:
        _say("left out of %s:" % arguments.file)
    _list(lost)
    return 0 if written else 1


def _check_place(target, name):
    """Find out before a script runs for hours what would keep its variables from being written."""
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise _Stop("%s cannot be written: it is a folder." % name)
    if not os.path.isdir(folder):
        raise _Stop("%s cannot be written: there is no folder %s." % (name, folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _Stop("%s cannot be written: you may not write to %s." % (name, folder))


def _check_needs():
    try:
        pickles.cloudpickle()
    except pickles.NoCloudpickle as error:
        raise _Stop(str(error)) from error
    with shells.lent():
        pass


# -- check -----------------------------------------------------------------------------------------


def _check(arguments):
    with restoring.opened(arguments.file) as file:
        try:
            manifest = restoring.told(records.Reader(file))
        except records.Damaged as error:
            raise Refused("The snapshot is damaged: %s." % error) from error
        status = os.fstat(file.fileno())
        missing = _missing(file)
    at = dt.datetime.fromtimestamp(int(status.st_mtime), dt.timezone.utc)
    versions, lost = manifest["versions"], manifest["lost"]
    if arguments.json:
        found = {key: manifest[key] for key in ("variables", "names", "lost", "versions")}
        found.update(file=os.path.abspath(arguments.file), bytes=status.st_size)
        found.update(written=at.isoformat(), missing=missing)
        _print_json(found, sys.stdout)
        return 1 if missing else 0
    size = _size(manifest, status.st_size)
    print("%s: %s, written %s." % (arguments.file, size, at.strftime("%Y-%m-%d %H:%M UTC")))
    print("Python %(python)s, IPython %(ipython)s, cloudpickle %(cloudpickle)s." % versions)
    if lost:
        print("What could not be saved:")
        _list(lost, sys.stdout)
    if missing:
        _say("of %s this would not come back here:" % arguments.file)
        _list(missing)
    else:
        print("All that was saved comes back.")
    return 1 if missing else 0


def _missing(file):
    """What a fresh process cannot bring back of an open file: ``name`` and ``why`` of each."""
    code = _START.format(folder=_FOLDER, number=file.fileno())
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(file.fileno(),),
    ) as process:
        try:
            told = process.communicate()[0]
        finally:
            process.kill()
    if not told:
        ended = process.returncode
        how = "by signal %d" % -ended if ended < 0 else "with exit code %d" % ended
        raise Refused("The process that reads it back has ended %s." % how)
    answer = json.loads(told.decode())
    if "why" in answer:
        raise Refused(answer["why"])
    return answer["failed"]


def read_back(number):
    """Bring back the variables of an open file, and tell what is missing; never returns.

    Parameters
    ----------
    number: the descriptor of the file.
    """
    answers = _apart()
    code = 1
    try:
        proof.endanger_nobody()
        _fresh("", [])
        try:
            with os.fdopen(number, "rb") as file:
                answer = {"failed": restoring.restored(file)["failed"]}
        except Refused as error:
            answer = {"why": str(error)}
        _print_json(answer, answers)
        code = 0
    finally:
        os._exit(code)  # nothing of what was loaded is to end in its own way


# -- load ------------------------------------------------------------------------------------------


def _load(arguments):
    words = arguments.words
    if not words:
        return _prompt(arguments.file)
    if words[0] == "-c":
        if len(words) < 2:
            raise _Stop("-c needs code.", 2)
        source, name, words = words[1], "<string>", ["-c", *words[2:]]
    elif words[0].startswith("-"):
        raise _Stop("%s stands before the file, as all options." % words[0], 2)
    else:
        name = words[0]
        source = _read(name)
    path = os.path.abspath(name)
    space = _fresh(name, [])
    found = restoring.restore(arguments.file)
    _tell(arguments.file, found)
    if found["failed"] and not arguments.allow_lost:
        raise _Stop("nothing is run; --allow-lost runs it with what is there.")
    sys.argv[:] = words
    if words[0] != "-c":
        sys.path.insert(0, os.path.dirname(path))
        space["__file__"] = path
    return _run(source, name, space)


def _prompt(file):
    try:
        from IPython.terminal.ipapp import TerminalIPythonApp
    except ImportError as error:
        raise Refused("IPython's prompt is not installed here; load it with -c CODE.") from error
    restoring.opened(file).close()
    app = TerminalIPythonApp.instance()
    app.display_banner = False
    app.initialize([])
    _tell(file, restoring.restore(file))
    app.start()
    return 0


def _tell(file, found):
    _say("%s: %s" % (file, found["line"]))
    if found["failed"]:
        _say("what did not come back:")
        _list(found["failed"])


# -- what runs, and what is shown ------------------------------------------------------------------


def _read(script):
    try:
        with open(script, "rb") as file:
            return file.read()
    except OSError as error:
        raise _Stop("%s cannot be read: %s." % (script, strerror(error))) from error


def _fresh(script, arguments):
    """The variables of a new ``__main__``, as Python makes it for a script."""
    module = types.ModuleType("__main__")
    space = vars(module)
    space["__builtins__"] = builtins
    sys.modules["__main__"] = module
    if script:
        space["__file__"] = os.path.abspath(script)
        sys.argv[:] = [script, *arguments]
        # Python had put there where this command was found.
        if sys.path and sys.path[0] in ("", os.getcwd()):
            del sys.path[0]
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    return space


def _run(source, name, space):
    """Run code as Python does; its exit code."""
    try:
        exec(compile(source, name, "exec", dont_inherit=True), space)  # noqa: S102 - the user's
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        trace = error.__traceback__
        error.__traceback__ = trace and trace.tb_next  # without this function
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _apart():
    """Where stdout went so far; from now on all that is printed goes to stderr."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def _print_json(found, output):
    json.dump(found, output, indent=2)
    output.write("\n")
    output.flush()


def _size(manifest, size):
    count = manifest["variables"]
    return "%d variable%s, %s" % (count, "" if count == 1 else "s", amount(size))


def _list(rows, output=None):
    for row in rows:
        name = "%s `%s`" % (row.get("what", ""), row["name"]) if row["name"] else row["what"]
        print("  %s: %s" % (name.strip(), row["why"]), file=output or sys.stderr)
