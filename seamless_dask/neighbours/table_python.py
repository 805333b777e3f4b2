"""The private or replaced names of the standard library that we use."""

from __future__ import annotations

from .names import Module, Where

_PYTHON = "Python"
_DRIVER, _WORKER, _CHILD = Where.DRIVER, Where.WORKER, Where.CHILD
_POOL = _WORKER | _CHILD

_asyncio = Module(_PYTHON, "asyncio")
_base_loop = Module(_PYTHON, "asyncio.base_events")
_selector_loop = Module(_PYTHON, "asyncio.selector_events")
_thread = Module(_PYTHON, "_thread")
_threading = Module(_PYTHON, "threading")
_context = Module(_PYTHON, "multiprocessing.context")
_forkserver = Module(_PYTHON, "multiprocessing.forkserver")
_process = Module(_PYTHON, "multiprocessing.process")
_logging = Module(_PYTHON, "logging")
_warnings = Module(_PYTHON, "warnings")

#: functions whose effect cannot be undone, and the modules that have them
_REGISTERING = (
    ("addaudithook", ("sys",)),
    ("register_error", ("codecs", "_codecs")),
    ("register", ("codecs", "_codecs")),
    ("register_at_fork", ("os", "posix")),
)

NAMES = (
    # -- threads and event loops
    _threading.replaced("Thread.start", _CHILD, "a thread belongs to its job"),
    _threading.read("_active", _CHILD, "the threads that a job leaves"),
    Module(_PYTHON, "linecache").replaced(
        "updatecache", _CHILD, "a traceback must not read pipes and devices"
    ),
    Module(_PYTHON, "selectors").replaced(
        "DefaultSelector", _CHILD, "a job whose loop waits lets others execute"
    ),
    _base_loop.replaced(
        "BaseEventLoop._run_once", _CHILD, "survives what jobs replace"
    ),
    _thread.read("RLock._at_fork_reinit", _DRIVER, "locks are free after a fork"),
    _thread.read("RLock._is_owned", _CHILD, "a lock that a job has kept"),
    _base_loop.set("BaseEventLoop._thread_id", _DRIVER, "a forked loop does not run"),
    _selector_loop.set(
        "BaseSelectorEventLoop._selector", _DRIVER, "the parent's stays the parent's"
    ),
    _selector_loop.read(
        "BaseSelectorEventLoop._close_self_pipe", _DRIVER, "a forked loop's own pipe"
    ),
    _selector_loop.read(
        "BaseSelectorEventLoop._make_self_pipe", _DRIVER, "a forked loop's own pipe"
    ),
    # assigned when the pipe is made
    _selector_loop.read(
        "BaseSelectorEventLoop._make_self_pipe._csock", _DRIVER, "kept to the end"
    ),
    _selector_loop.read(
        "BaseSelectorEventLoop._make_self_pipe._ssock", _DRIVER, "kept to the end"
    ),
    _asyncio.read("_get_running_loop", _DRIVER | _CHILD, "without an exception"),
    Module(_PYTHON, "asyncio.events").read("_get_running_loop", _DRIVER, "the same"),
    Module(_PYTHON, "asyncio.tasks").set(
        "Task._log_destroy_pending", _DRIVER | _CHILD, "it may be thrown away"
    ),
    Module(_PYTHON, "concurrent.futures").read("_base", _CHILD, "jobs may change it"),
    Module(_PYTHON, "concurrent.futures.thread").read(
        "ThreadPoolExecutor._max_workers", _DRIVER, "as many after a fork"
    ),
    # -- processes
    _forkserver.read("_forkserver", _CHILD, "a job's own fork server"),
    _forkserver.read("read_signed", _WORKER, "the id of a new process"),
    *(
        _forkserver.read(f"ForkServer.{name}", _POOL, reason)
        for name, reason in (
            ("_forkserver_alive_fd", "a process has a fork server of its own"),
            ("_forkserver_pid", "finds processes that were left running"),
            ("_stop", "ends it"),
            ("connect_to_new_process", "starts a process"),
            ("ensure_running", "starts it"),
        )
    ),
    Module(_PYTHON, "multiprocessing.popen_forkserver").overridden(
        "Popen._launch", _WORKER, "by our fork server, without the user's script"
    ),
    Module(_PYTHON, "multiprocessing.popen_forkserver").read(
        "Popen._fds", _WORKER, "descriptors that go along"
    ),
    Module(_PYTHON, "multiprocessing.spawn").read(
        "get_preparation_data", _WORKER, "data that a new process needs"
    ),
    _context.overridden("ForkServerContext._name", _WORKER, "our context"),
    _context.overridden("ForkServerProcess._Popen", _WORKER, "our context"),
    _context.overridden("ForkServerProcess._start_method", _WORKER, "our context"),
    _context.read("set_spawning_popen", _WORKER, "while a process is described"),
    _context.read("_default_context", _CHILD, "the start method that a job has set"),
    _context.set(
        "_default_context._actual_context",
        _CHILD,
        "the start method that a job has set",
    ),
    _process.read(
        "BaseProcess._config", _POOL, "may start processes; socket directory"
    ),
    _process.read("BaseProcess._name", _WORKER, "its name"),
    _process.read("_children", _DRIVER, "a forked driver has none"),
    Module(_PYTHON, "weakref").read(
        "finalize._registry", _DRIVER, "a forked driver ends nothing of its parent"
    ),
    # -- state that jobs change in their process, and that is put back
    *(
        Module(_PYTHON, module).replaced(
            function, _CHILD, "notes calls that cannot be undone"
        )
        for function, modules in _REGISTERING
        for module in modules
    ),
    Module(_PYTHON, "os").read("environ._data", _CHILD, "without the checks"),
    _logging.read("_levelToName", _CHILD, "names of levels"),
    _logging.read("_nameToLevel", _CHILD, "names of levels"),
    _logging.read("Manager._clear_cache", _CHILD, "levels have changed"),
    _warnings.read(
        "_filters_mutated_lock_held",
        _CHILD,
        "warnings that were shown",
        unless="_filters_mutated",
    ),
    _warnings.read(
        "_lock", _CHILD, "warnings that were shown", unless="_filters_mutated"
    ),
)
