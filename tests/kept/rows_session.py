"""States of the session: settings, hooks, what runs besides the variables. Each has its process."""

from __future__ import annotations

from table import Group

# fmt: off

settings = Group(
    "settings",
    "import asyncio, atexit, decimal, gc, locale, logging, os, random, signal, sys, time, warnings\n"
    "import numpy as np, pandas as pd",
)
same, told, unseen = settings.same, settings.told, settings.unseen
same("a decimal context", "decimal.getcontext().prec = 50", "str(decimal.Decimal(1) / 3)")
same("errors of NumPy", "np.seterr(divide='raise')", "np.geterr()")
same("how NumPy prints", "np.set_printoptions(precision=2)", "repr(np.array([1 / 3]))")
same("how NumPy prints by a function", "np.set_printoptions(formatter={'int': lambda i: '<%d>' % i})",
     "str(np.array([1]))")
same(
    "options of pandas", "pd.set_option('display.max_rows', 7)", "pd.get_option('display.max_rows')"
)
same("an option that is a function", "pd.options.display.float_format = '<{:.1f}>'.format",
     "str(pd.Series([1.5]))")
same("filters of warnings", "warnings.filterwarnings('ignore', 'hush', DeprecationWarning, append=True)",
     "[f[0] for f in warnings.filters if f[1] is not None and f[1].pattern == 'hush']")
same("warnings that are errors", "warnings.simplefilter('error', ResourceWarning)",
     "[(f[0], f[2].__name__) for f in warnings.filters][:2]")
same("a filter for a class of the notebook", "class §W(UserWarning): pass\n"
     "warnings.simplefilter('ignore', §W)", "[f[0] for f in warnings.filters if f[2] is §W]")
same("the limit of recursion", "sys.setrecursionlimit(4321)", "sys.getrecursionlimit()")
same("the state of random", "random.seed(3); random.random()", "random.random()")
same("the state of NumPy's random", "np.random.seed(3); np.random.rand()", "np.random.rand()")
same("the environment", "os.environ.update(§A='1', GPU_BATCH='8', JPY_RATE='0.1', CUDA_MINE='x')",
     "[os.environ.get(n) for n in ('§A', 'GPU_BATCH', 'JPY_RATE', 'CUDA_MINE')]")
same(
    "an environment without something", "os.environ.pop('MPLBACKEND')", "'MPLBACKEND' in os.environ"
)
same("the time zone", "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "time.localtime(0).tm_hour")
same("the path of modules", "sys.path.insert(0, '/opt/§')", "sys.path[0]")
same(
    "the folder",
    "os.makedirs('below', exist_ok=True); os.chdir('below')",
    "os.path.basename(os.getcwd())",
)
same("arguments", "sys.argv[:] = ['prog', '--lr', '1']", "sys.argv")
same("the collector of garbage", "gc.disable(); gc.set_threshold(123, 4, 5)",
     "[gc.isenabled(), gc.get_threshold()[0]]")
same("the mask of files", "os.umask(0o027)", "[oct(m) for m in [os.umask(0)] if os.umask(m) == 0]")
same("a limit of digits", "sys.set_int_max_str_digits(5000)", "sys.get_int_max_str_digits()")
same(
    "how often threads take turns",
    "sys.setswitchinterval(0.02)",
    "round(sys.getswitchinterval(), 4)",
)
same(
    "a locale",
    "locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')",
    "locale.setlocale(locale.LC_NUMERIC)",
)
told("a function at exit", "def §bye(): pass\natexit.register(§bye)", name="function at exit")
same("a handler of a signal", "def §h(*a): pass\nsignal.signal(signal.SIGUSR1, §h)",
     "signal.getsignal(signal.SIGUSR1) is §h")
told("a timer", "signal.setitimer(signal.ITIMER_VIRTUAL, 3600)", "signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0",
     "timer")
same("a hook for errors", "def §h(*a): pass\nsys.excepthook = §h", "sys.excepthook is §h")
same("a builtin of one's own", "import builtins; builtins.§d = lambda x: x", "§d(3)")
told("a trace of memory", "import tracemalloc; tracemalloc.start()", "tracemalloc.is_tracing()",
     "tracemalloc")

logs = Group("logs", "import logging, logging.handlers, sys")
same, told = logs.same, logs.told
same(
    "a logger",
    "§l = logging.getLogger('§l'); §l.setLevel('INFO')",
    "[§l.level, §l is logging.getLogger('§l')]",
)
same("its propagation", "§l = logging.getLogger('§l'); §l.propagate = False; §l.disabled = True",
     "[§l.propagate, §l.disabled]")
same(
    "a logger without a variable",
    "logging.getLogger('§l').setLevel(7)",
    "logging.getLogger('§l').level",
)
same("a handler to the notebook", "§l = logging.getLogger('§l'); §h = None\n"
     "§l.addHandler(logging.StreamHandler(sys.stdout))",
     "[type(h).__name__ for h in logging.getLogger('§l').handlers]")
same("its format", "logging.getLogger('§l').addHandler(logging.StreamHandler())\n"
     "logging.getLogger('§l').handlers[0].setFormatter(logging.Formatter('%(message)s!'))",
     "[h.formatter._fmt for h in logging.getLogger('§l').handlers]")
told("a handler to a file", "§l = logging.getLogger('§l'); §l.addHandler(logging.FileHandler('§.log'))",
     "len(§l.handlers)", "handler FileHandler of §l")
told("one of a logger without a variable", "logging.getLogger('§l').addHandler(logging.FileHandler("
     "'§.log'))", "len(logging.getLogger('§l').handlers)", "handler FileHandler of §l")
told("one of the root", "logging.basicConfig(filename='§.log', force=True)",
     "len(logging.root.handlers)", "handler FileHandler")
same("a filter", "logging.getLogger('§l').addFilter(lambda r: False)", "len(logging.getLogger('§l').filters)")
same("a name of a level", "logging.addLevelName(17, '§LEVEL')", "logging.getLevelName(17)")

shells = Group("shells", "import os, sys")
same, told, unseen = shells.same, shells.told, shells.unseen
same("inputs", "'§in'", "'§in' in In[2]")
same("outputs", "[1, '§out']", "any(v == [1, '§out'] for v in Out.values())")
same("the last output", "[7]", "any(v == [7] for v in Out.values())")
same("the number of the next cell", "pass", "get_ipython().execution_count")
told("an output that cannot be saved", "(i for i in '§gone')", "any('generator' in repr(v) for v in "
     "Out.values())", "Out[")
told("an underscore of one's own", "_ = iter(open('/dev/null'))", "0", "_")
same("how cells show values", "%config InteractiveShell.ast_node_interactivity = 'last_expr_or_assign'",
     "get_ipython().ast_node_interactivity")
same(
    "precision",
    "%precision 3",
    "get_ipython().display_formatter.formatters['text/plain'].float_precision",
)
same("an alias", "%alias §ll ls -l", "get_ipython().alias_manager.is_alias('§ll')")
same("a magic", "from IPython.core.magic import register_line_magic\n@register_line_magic\n"
     "def §magic(line): return 'hi ' + line", "get_ipython().run_line_magic('§magic', 'x')")
same("a hook", "§ran = []\ndef §cb(info): §ran.append(1)\nget_ipython().events.register('pre_run_cell', §cb)",
     "§cb in get_ipython().events.callbacks['pre_run_cell']")
told("a hook that holds a generator", "§g = None\ndef §make(g=(i for i in 'a')):\n"
     "    def §cb(info): next(g, 0)\n    return §cb\n"
     "get_ipython().events.register('post_run_cell', §make()); del §make", "0", "hook post_run_cell")
same("autoreload", "%load_ext autoreload\n%autoreload 2",
     "get_ipython().find_line_magic('autoreload').__self__._reloader.enabled")
same("the folders that were visited", "§d = os.getcwd()", "str(_dh[0]) == §d")
same("a formatter of a class", "class §M: pass\nget_ipython().display_formatter.formatters['text/html']"
     ".for_type(§M, lambda m: '<b>x</b>')",
     "get_ipython().display_formatter.format(§M())[0].get('text/html')")
same("a formatter by name", "get_ipython().display_formatter.formatters['text/plain'].for_type_by_name("
     "'fractions', 'Fraction', lambda f, p, c: p.text('§f'))",
     "get_ipython().display_formatter.format(__import__('fractions').Fraction(1, 2))[0]['text/plain']")
same("a transformer of inputs", "def §tr(lines): return lines\n"
     "get_ipython().input_transformers_cleanup.append(§tr)",
     "§tr in get_ipython().input_transformers_cleanup")
same("a handler of exceptions", "def §ce(self, et, v, tb, tb_offset=None): print('mine')\n"
     "get_ipython().set_custom_exc((ZeroDivisionError,), §ce)",
     "[get_ipython().custom_exceptions, get_ipython().CustomTB.__name__]")
told(
    "a log of cells", "%logstart -q §.log", "get_ipython().logger.logfile is not None", "%logstart"
)

GROUPS = [settings, logs, shells]
