"""What cannot be saved, and what things are called when a user is told of them."""

import re
import types

__all__ = ["Lost", "article", "called", "kind_of"]

#: By module and name of a class; what inherits from it is called the same. What is here is never
#: saved, though some of it could be pickled: it would come back as something else.
_KINDS = {
    "_asyncio.Future": "asyncio future",
    "_asyncio.Task": "asyncio task",
    "_bz2.BZ2Compressor": "compressor",
    "_bz2.BZ2Decompressor": "compressor",
    "_contextvars.Context": "context",
    "_contextvars.ContextVar": "context variable",
    "_contextvars.Token": "token of a context variable",
    "_csv.reader": "CSV reader",
    "_csv.writer": "CSV writer",
    "_ctypes.CFuncPtr": "function of a C library",
    "_ctypes.PyCFuncPtr": "function of a C library",
    "_curses.window": "window",
    "_frozen_importlib._ModuleLock": "lock",
    "_hashlib.HASH": "hash in the making",
    "_hashlib.HASHXOF": "hash in the making",
    "_hashlib.HMAC": "hash in the making",
    "_io.BufferedRandom": "file",
    "_io.BufferedReader": "file",
    "_io.BufferedRWPair": "file",
    "_io.BufferedWriter": "file",
    "_io.FileIO": "file",
    "_io._BufferedIOBase": "file",
    "_io._RawIOBase": "file",
    "_io.TextIOWrapper": "file",
    "_lzma.LZMACompressor": "compressor",
    "_lzma.LZMADecompressor": "compressor",
    "_multiprocessing.SemLock": "lock",
    "_queue.SimpleQueue": "queue",
    "_ssl._SSLContext": "SSL context",
    "_ssl._SSLSocket": "socket",
    "_socket.socket": "socket",
    "_sqlite3.Connection": "database connection",
    "_sqlite3.Cursor": "database cursor",
    "_thread.RLock": "lock",
    "_thread._local": "thread-local data",
    "_thread.lock": "lock",
    "_tkinter.tkapp": "window",
    "_tkinter.Tcl_Obj": "window",
    "asyncio.events.AbstractEventLoop": "event loop",
    "asyncio.events.Handle": "call of an event loop",
    "asyncio.futures.Future": "asyncio future",
    "asyncio.locks.Condition": "lock",
    "asyncio.locks.Event": "event",
    "asyncio.locks.Lock": "lock",
    "asyncio.locks.Semaphore": "semaphore",
    "asyncio.queues.Queue": "queue",
    "asyncio.tasks.Task": "asyncio task",
    "builtins.async_generator": "asynchronous generator",
    "builtins.coroutine": "coroutine",
    "builtins.coroutine_wrapper": "coroutine",
    "builtins.frame": "frame of a running function",
    "builtins.generator": "generator",
    "builtins.traceback": "traceback",
    "comm.base_comm.BaseComm": "connection to the page",
    "concurrent.futures._base.Executor": "pool of workers",
    "concurrent.futures._base.Future": "future",
    "contextlib._GeneratorContextManager": "context manager",
    "contextlib._AsyncGeneratorContextManager": "context manager",
    "ctypes.CDLL": "C library",
    "hmac.HMAC": "hash in the making",
    "http.client.HTTPConnection": "connection",
    "ipywidgets.widgets.widget.Widget": "widget",
    "logging.Handler": "log handler",
    "mmap.mmap": "memory map of a file",
    "multiprocessing.connection._ConnectionBase": "connection",
    "multiprocessing.managers.BaseManager": "manager of processes",
    "multiprocessing.pool.Pool": "pool of workers",
    "multiprocessing.process.BaseProcess": "child process",
    "multiprocessing.queues.Queue": "queue",
    "multiprocessing.synchronize.Barrier": "barrier",
    "multiprocessing.synchronize.Condition": "lock",
    "multiprocessing.synchronize.Event": "event",
    "multiprocessing.synchronize.SemLock": "lock",
    "multiprocessing.shared_memory.SharedMemory": "block of shared memory",
    "posix.DirEntry": "entry of a folder's listing",
    "posix.ScandirIterator": "listing of a folder",
    "numpy.memmap": "array that is mapped from a file",
    "pyexpat.xmlparser": "XML parser",
    "queue.Queue": "queue",
    "select.epoll": "poll object",
    "select.kqueue": "poll object",
    "select.poll": "poll object",
    "selectors.BaseSelector": "selector",
    "socket.socket": "socket",
    "sqlite3.Connection": "database connection",
    "sqlite3.Cursor": "database cursor",
    "ssl.SSLContext": "SSL context",
    "subprocess.Popen": "child process",
    "tempfile.TemporaryDirectory": "temporary folder",
    "tempfile._TemporaryFileWrapper": "temporary file",
    "threading.Barrier": "barrier",
    "threading.Condition": "lock",
    "threading.Event": "event",
    "threading.Semaphore": "semaphore",
    "threading.Thread": "thread",
    "threading._RLock": "lock",
    "tkinter.Misc": "window",
    "tkinter.Variable": "window's variable",
    "weakref.CallableProxyType": "weak reference",
    "weakref.ProxyType": "weak reference",
    "weakref.ReferenceType": "weak reference",
    "weakref.finalize": "finalizer",
    "weakref.WeakKeyDictionary": "dictionary of weak references",
    "weakref.WeakValueDictionary": "dictionary of weak references",
    "zipfile.ZipFile": "file",
    "tarfile.TarFile": "file",
    "zlib.Compress": "compressor",
    "zlib.Decompress": "compressor",
    "zmq.backend.cython._zmq.Context": "ZeroMQ context",
    "zmq.backend.cython._zmq.Socket": "socket",
    "zmq.sugar.context.Context": "ZeroMQ context",
    "zmq.sugar.socket.Socket": "socket",
}
#: What older versions of Python say to be of ``builtins``.
_KINDS.update(
    {
        "builtins.Context": "context",
        "builtins.ContextVar": "context variable",
        "builtins.Token": "token of a context variable",
        "builtins.weakref": "weak reference",
        "builtins.weakproxy": "weak reference",
        "builtins.weakcallableproxy": "weak reference",
    }
)
#: In memory, and picklable as they are.
_HARMLESS = {"_io.BytesIO", "_io.StringIO"}
#: First parts of the names of modules whose connections and cursors are a database's.
_DATABASES = re.compile(
    "MySQLdb|aiosqlite|asyncpg|cx_Oracle|duckdb|ibm_db|mysql|oracledb|psycopg|psycopg2|psycopg_c"
    "|pymongo|pymssql|pymysql|pyodbc|redis|snowflake|sqlalchemy|sqlite3"
)
_NAMES = {
    "builtin_function_or_method": "function",
    "method": "method",
    "partial": "function",
    "type": "class",
}
_PICKLING = frozenset(["__getstate__", "__reduce__", "__reduce_ex__"])
_FOUND = {}  # type: dict[type, str]


class Lost(Exception):  # noqa: N818 - a finding, told to the user
    """Raised within a pickler for an object that cannot be saved; its text may say why."""


def kind_of(value):
    """What an object is that cannot be saved, as a noun; empty where that is not known of it."""
    cls = type(value)
    try:
        return _FOUND[cls]
    except (KeyError, TypeError):
        pass
    kind = ""
    for base in cls.__mro__:
        name = "%s.%s" % (base.__module__, base.__name__)
        if name in _KINDS:
            kind = _KINDS[name]
            break
        # What says itself how it is pickled is taken at its word.
        if name in _HARMLESS or _PICKLING & set(vars(base)):
            break
    # Classes that cells define come and go: they must not be kept alive here.
    if cls.__module__ != "__main__":
        _FOUND[cls] = kind
    return kind


def called(value):
    """What a user would call an object: a noun, such as ``open file`` or ``DataFrame``."""
    kind = kind_of(value)
    if kind == "file":
        return "file" if _is_closed(value) else "open file"
    if kind:
        return kind
    cls = type(value)
    if isinstance(value, types.ModuleType):
        return "module"
    if _DATABASES.fullmatch(str(cls.__module__).partition(".")[0]):
        if "onnection" in cls.__name__ or "Client" in cls.__name__:
            return "database connection"
        if "ursor" in cls.__name__:
            return "database cursor"
    if issubclass(cls, type):
        return "class"
    return _NAMES.get(cls.__name__, cls.__name__)


def _is_closed(file):
    try:
        return bool(file.closed)
    except Exception:  # it is not made to its end
        return True


def article(noun):
    """The noun with *a* or *an* before it."""
    return "%s %s" % ("an" if noun[:1].lower() in "aeiou" else "a", noun)
