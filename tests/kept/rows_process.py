"""States of the process and of Python itself: what there is one of, and what a cell has set."""

from __future__ import annotations

from table import Group

# fmt: off

aliases = Group(
    "aliases",
    "import collections, decimal, logging, os, random, sys, types, warnings\n"
    "import matplotlib; matplotlib.use('agg'); import numpy as np",
)
aliases.same("a function of random", "from random import choice as §c, seed as §s",
             "[§s(3), §c(range(99)), random.seed(3), random.choice(range(99))][1::2]")
aliases.same("a function of NumPy's random", "from numpy.random import rand as §r, seed as §s",
             "[§s(3), np.random.rand(), np.random.seed(3), §r()][1::2]")
aliases.same("the generator of NumPy", "§a = np.random.mtrand._rand", "§a is np.random.mtrand._rand")
aliases.same("another one", "§a = np.random.RandomState(3)",
             "[§a is np.random.mtrand._rand, §a.rand()]")
aliases.same("arguments", "§a = sys.argv", "§a is sys.argv")
aliases.same("the environment", "§a = os.environ", "§a is os.environ")
aliases.same("where modules are found", "§a = sys.path, sys.meta_path, sys.path_hooks, sys.modules",
             "[§a[0] is sys.path, §a[1] is sys.meta_path, §a[2] is sys.path_hooks, "
             "§a[3] is sys.modules]")
aliases.same("filters of warnings", "§a = warnings.filters", "§a is warnings.filters")
aliases.same("the context of decimal", "§a = decimal.getcontext(); §a.prec = 7",
             "[§a is decimal.getcontext(), decimal.getcontext().prec]")
aliases.same("settings of Matplotlib", "from matplotlib import rcParams as §a",
             "§a is matplotlib.rcParams")
aliases.same("settings that are a copy", "§a = matplotlib.rcParams.copy(); §a['lines.linewidth'] = 3",
             "[§a is matplotlib.rcParams, §a['lines.linewidth']]")
aliases.same("the root logger", "§a = logging.root", "§a is logging.getLogger()")
aliases.same("functions of Python", "§a = len, print", "[§a[0] is len, §a[1] is print]")
for _name in ("keys", "values", "items"):
    aliases.same(f"{_name} of a dict", f"§d = {{1: 2}}; §v = §d.{_name}()",
                 "[§d.__setitem__(3, 4), list(§v)]")
    aliases.same(f"{_name} of an ordered dict",
                 f"§d = collections.OrderedDict(a=1); §v = §d.{_name}()",
                 "[§d.__setitem__('b', 2), list(§v)]")
aliases.same("a view in its own dict", "§d = {1: 2}; §d[2] = §d.keys()",
             "[§d.__setitem__(3, 4), list(§d[2])]")
aliases.same("a dict that cannot be written to", "§d = {1: 2}; §p = types.MappingProxyType(§d)",
             "[§d.__setitem__(3, 4), §p[3]]")
aliases.same("one of a chain of dicts",
             "§d = {1: 2}; §p = types.MappingProxyType(collections.ChainMap(§d))",
             "[§d.__setitem__(3, 4), §p[3]]")
aliases.same("attributes of a class", "class §A: x = 1\n§p = vars(§A)",
             "[setattr(§A, 'y', 3), §p['y']]")
aliases.told("attributes of a class with slots", "class §A: __slots__ = ()\n§p = vars(§A)",
             "§p['__slots__']")
aliases.same("a method of a list", "§l = []; §a = §l.append", "[§a(1), §l]")
aliases.same("a method of a dict", "§d = {}; §a = §d.get", "[§d.__setitem__(1, 2), §a(1)]")
aliases.unseen("a number that is not one", "§n = float('nan'); §l = [§n]", "§n in §l",
               "Python's pickles write numbers by their value")

process = Group(
    "process",
    "import abc, builtins, collections.abc, gc, logging, mimetypes, numbers, os, socket, sys\n"
    "import threading\nimport multiprocessing as mp",
)
process.same("later syntax", "from __future__ import annotations",
             "get_ipython().run_cell('def f(x: not_there): pass').success")
process.same("the timeout of sockets", "socket.setdefaulttimeout(7.5)", "socket.getdefaulttimeout()")
process.same("stacks of threads", "threading.stack_size(2**19)",
             "[threading.stack_size(), threading.stack_size(2**19)]")
process.same("how processes start", "mp.set_start_method('spawn', force=True)",
             "mp.get_start_method()")
process.same("errors in handlers of logs", "logging.raiseExceptions = False",
             "logging.raiseExceptions")
process.same("warnings as logs", "logging.captureWarnings(True)",
             "logging._warnings_showwarning is not None")
process.same("a class of loggers",
             "class §L(logging.Logger): pass\nlogging.setLoggerClass(§L)",
             "logging.getLoggerClass() is §L")
process.same("a logger of that class", "§l = logging.getLogger('§')",
             "type(§l) is logging.getLoggerClass()")
process.same("a factory of log records",
             "def §f(*args, **more): return logging.LogRecord(*args, **more)\n"
             "logging.setLogRecordFactory(§f)",
             "logging.getLogRecordFactory() is §f")
process.same("an attribute of a logger", "§l = logging.getLogger('§'); §l.extra = [1]",
             "logging.getLogger('§').extra")
process.same("a builtin under another name", "builtins.§size = len", "§size([1])")
process.same("what the collector calls", "def §f(*args): pass\ngc.callbacks.append(§f)",
             "§f in gc.callbacks")
process.same("a class that counts as a sequence",
             "class §A: pass\ncollections.abc.Sequence.register(§A)",
             "[isinstance(§A(), collections.abc.Sequence), isinstance(§A(), collections.abc.Set)]")
process.same("a class that counts as a number", "class §A: pass\nnumbers.Number.register(§A)",
             "isinstance(§A(), numbers.Number)")
process.unseen("a file that is open by number", "§a = os.open('/dev/null', os.O_RDONLY)",
               "os.fstat(§a).st_rdev", "a number does not say what it stands for")
process.unseen("how urgent it is", "os.nice(1)", "os.nice(0)", "the machine gives them")
process.unseen("where it runs", "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
               "len(os.sched_getaffinity(0))", "the machine gives them")
process.unseen("what a module was told", "mimetypes.add_type('a/§', '.§')",
               "mimetypes.guess_type('a.§')[0]", "a new kernel imports them anew")

GROUPS = [aliases, process]
