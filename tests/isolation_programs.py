"""Programs that set what is global in a process, pause, and use it.

Each is the code of a transformation: what it needs is imported and defined inside.
Each first returns what it finds (what others may have left), then what it gets after a
pause (in which others may have changed it), and leaves everything as it is then. Alone,
in a fresh process, each gives the same for the same `number` every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# -- generators of random numbers ----------------------------------------------------


def seeded_random(number):
    import random
    import time

    random.seed(number)
    values = []
    for _ in range(4):
        time.sleep(0.005)
        values.append(random.random())
        values.append(random.gauss(0, 1))
    values.append(random.gauss(0, 1))
    return values


def seeded_random_without_a_pause(number):
    import random

    random.seed(number)
    inside = 0
    for _ in range(50_000):
        x, y = random.random(), random.random()
        inside += x * x + y * y < 1
    return inside


def seeded_numpy(number):
    import time

    import numpy

    numpy.random.seed(number)
    values = []
    for _ in range(4):
        time.sleep(0.005)
        values.append(float(numpy.random.random(1000).sum()))
        values.append(float(numpy.random.normal()))
    return [*values, numpy.random.permutation(10).tolist()]


def seed_before_a_call(number):
    import random

    import numpy
    from seamless.transformer import direct

    def nested(number):
        import random

        import numpy

        random.seed(-number)
        numpy.random.seed(1000 + number)
        return [random.random(), float(numpy.random.random())]

    random.seed(number)
    numpy.random.seed(number)
    before = [random.random(), random.gauss(0, 1), float(numpy.random.normal())]
    called = direct(nested)(number)
    after = [random.random(), random.gauss(0, 1), float(numpy.random.normal())]
    return [before, called, after]


def seed_before_calls_that_run_together(number):
    import random

    import numpy
    from seamless.transformer import delayed

    def nested(number, i):
        import random
        import time

        random.seed(100 * number + i)
        time.sleep(0.005)
        return random.random()

    random.seed(number)
    numpy.random.seed(number)
    calls = [delayed(nested)(number, i) for i in range(2)]
    for call in calls:
        call.start()
    before = [random.random(), float(numpy.random.random())]
    called = [call.run() for call in calls]
    return [before, called, random.random(), float(numpy.random.random())]


def pi(number):
    """Samples of samples, each with the global generator of numpy."""
    import numpy
    from seamless.transformer import delayed

    def sample(seed):
        import numpy

        numpy.random.seed(seed)
        x, y = numpy.random.random(2000), numpy.random.random(2000)
        return int((x * x + y * y < 1).sum())

    numpy.random.seed(number)
    samples = [delayed(sample)(10 * number + i) for i in range(2)]
    for started in samples:
        started.start()
    hits = [started.run() for started in samples]
    x, y = numpy.random.random(2000), numpy.random.random(2000)
    return [*hits, int((x * x + y * y < 1).sum())]


# -- what the system keeps for a process ---------------------------------------------


def working_directory(number):
    """As programs need it that write files with fixed names."""
    import os
    import tempfile
    import time

    found = os.path.isdir(os.getcwd())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("input.txt", "w") as file:
            file.write(str(number))
        os.mkdir("sub")
        time.sleep(0.02)
        with open("input.txt") as file, open("sub/output.txt", "w") as output:
            output.write(file.read())
        with open(os.path.join(folder, "sub", "output.txt")) as file:
            here = os.path.samefile(folder, os.getcwd())
            return [found, here, sorted(os.listdir()), file.read()]


def working_directory_and_a_call(number):
    import os
    import tempfile
    from pathlib import Path

    from seamless.transformer import direct

    def nested(number):
        import os
        import tempfile
        from pathlib import Path

        os.chdir(tempfile.mkdtemp())
        Path("input.txt").write_text(f"nested {number}")
        return [os.listdir(), Path("input.txt").read_text()]

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("input.txt").write_text(str(number))
        called = direct(nested)(number)
        here = os.path.samefile(folder, os.getcwd())
        return [called, here, os.listdir(), Path("input.txt").read_text()]


def deleted_directory(number):
    """The working directory is gone when this ends."""
    import os
    import shutil
    import tempfile
    import time

    found = [os.path.isdir(os.getcwd()), len(os.listdir()) >= 0]
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    time.sleep(0.01)
    shutil.rmtree(folder)
    return [*found, number]


def environment(number):
    import os
    import subprocess
    import time

    found = [os.environ.get("OF_PROGRAMS"), "PATH" in os.environ, "HOME" in os.environ]
    os.environ["OF_PROGRAMS"] = str(number)
    os.environ.pop("HOME", None)
    time.sleep(0.02)
    command = ["/bin/sh", "-c", "echo $OF_PROGRAMS"]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    return [*found, os.environ["OF_PROGRAMS"], os.getenv("HOME"), child]


def environment_and_a_call(number):
    import os

    from seamless.transformer import direct

    def nested(number):
        import os

        found = os.environ.get("OF_PROGRAMS")
        os.environ["OF_PROGRAMS"] = f"nested {number}"
        return [found]

    os.environ["OF_PROGRAMS"] = str(number)
    return [direct(nested)(number), os.environ["OF_PROGRAMS"]]


def umask(number):
    import os
    import tempfile
    import time

    mask = [0o000, 0o007, 0o027, 0o077, 0o177][number % 5]
    found = os.umask(mask)
    time.sleep(0.02)
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "file")
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o777))
        return [found, os.stat(name).st_mode & 0o777]


def umask_and_a_call(number):
    import os

    from seamless.transformer import direct

    def nested(number):
        import os

        return os.umask(0o777)

    os.umask([0o000, 0o007, 0o027, 0o077, 0o177][number % 5])
    return [direct(nested)(number), os.umask(0o022)]


def limits(number):
    """The number of open files; and a signal ignored by the C library."""
    import ctypes
    import os
    import resource
    import signal
    import time

    def ignored():
        with open("/proc/self/status") as status:
            (line,) = [line for line in status if line.startswith("SigIgn")]
        return bool(int(line.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [soft in range(300, 400), ignored(), os.getpriority(os.PRIO_PROCESS, 0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (300 + number, hard))
    time.sleep(0.01)
    if number % 4 == 0:
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal(signal.SIGUSR2, 1)
    if number % 4 == 1:
        os.nice(1)
    return [found, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]


def time_zone(number):
    import os
    import time

    found = time.localtime(0).tm_hour
    os.environ["TZ"] = f"XYZ{number % 12}"
    time.tzset()
    time.sleep(0.02)
    return [found, time.localtime(0).tm_hour, time.tzname[0]]


def locale_settings(number):
    import locale
    import time

    kinds = [locale.LC_NUMERIC, locale.LC_TIME, locale.LC_COLLATE]
    found = [locale.setlocale(kind) for kind in kinds]
    for kind in kinds:
        locale.setlocale(kind, ["C.UTF-8", "C", "POSIX"][(number + kind) % 3])
    time.sleep(0.02)
    return [found, [locale.setlocale(kind) for kind in kinds]]


# -- what Python and its modules keep ------------------------------------------------


def warning_filters(number):
    import time
    import warnings

    found = sum("of programs" in str(entry[1]) for entry in warnings.filters)
    kind = ["error", "ignore"][number % 2]
    warnings.filterwarnings(kind, message="of programs")
    time.sleep(0.02)
    try:
        warnings.warn("of programs", stacklevel=1)
        raised = False
    except UserWarning:
        raised = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            time.sleep(0.005)
            warnings.warn("of programs, caught", stacklevel=1)
    return [found, raised, len(caught)]


def decimal_context(number):
    import decimal
    import time

    found = [decimal.getcontext().prec, decimal.DefaultContext.prec]
    decimal.getcontext().prec = 5 + number
    time.sleep(0.02)
    value = str(decimal.Decimal(1) / 7)
    if number % 2:
        decimal.DefaultContext.prec = 5 + number
        decimal.setcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP))
    return [found, value]


def module_on_the_path(number):
    """One name, and each program its own module."""
    import os
    import sys
    import tempfile
    import time

    found = "settings_of_program" in sys.modules
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "settings_of_program.py"), "w") as file:
        file.write(f"import time\ntime.sleep(0.01)\nvalue = {number}\nuses = []\n")
    sys.path.insert(0, folder)
    import settings_of_program

    time.sleep(0.01)

    def again():
        import settings_of_program

        settings_of_program.uses.append(1)
        return [settings_of_program.value, len(settings_of_program.uses)]

    return [found, settings_of_program.value, again(), sys.path[0] == folder]


def builtin_names(number):
    import builtins
    import time

    found = [hasattr(builtins, "of_programs"), round(2.6)]
    builtins.of_programs = number
    builtins.round = lambda value: number
    time.sleep(0.02)
    return [found, of_programs, round(2.6)]  # noqa: F821


def logging_levels(number):
    import logging
    import time

    logger = logging.getLogger("of.programs")
    found = [logger.level, len(logger.handlers), logger.isEnabledFor(logging.ERROR)]
    found.append(logging.getLogger().level)
    logging.getLogger().setLevel(10 + number)
    logger.setLevel(20 + number)
    logger.addHandler(logging.StreamHandler())
    if number % 2:
        logging.disable(logging.CRITICAL)
    time.sleep(0.02)
    levels = [logging.getLogger().level, logger.level, len(logger.handlers)]
    return [found, levels, logger.isEnabledFor(logging.ERROR)]


def numpy_errors(number):
    import time

    import numpy

    found = numpy.geterr()["divide"]
    numpy.seterr(divide=["raise", "ignore"][number % 2])
    time.sleep(0.02)
    try:
        return [found, str(numpy.float64(1) / numpy.float64(0))]
    except FloatingPointError:
        return [found, "raised"]


def numpy_printing(number):
    import time

    import numpy

    found = str(numpy.array([1 / 3, 2e-7]))
    numpy.set_printoptions(precision=number % 12 + 1, suppress=bool(number % 2))
    time.sleep(0.02)
    return [found, str(numpy.array([1 / 3, 2e-7]))]


def temporary_files(number):
    import os
    import tempfile
    import time

    found = "of_programs" in tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="of_programs")
    tempfile.tempdir = folder
    time.sleep(0.02)
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    return [found, os.path.dirname(name) == folder, len(os.listdir(folder))]


def socket_timeout(number):
    import socket
    import time

    found = socket.getdefaulttimeout()
    socket.setdefaulttimeout(100 + number)
    time.sleep(0.02)
    with socket.socket() as opened:
        return [found, opened.gettimeout()]


def recursion_limit(number):
    import sys
    import time

    found = sys.getrecursionlimit()
    sys.setrecursionlimit(2000 + number)
    time.sleep(0.02)
    return [found, sys.getrecursionlimit()]


def interpreter_settings(number):
    import csv
    import gc
    import sys
    import threading
    import time

    def settings():
        return [
            gc.isenabled(),
            gc.get_threshold()[0],
            round(sys.getswitchinterval(), 4),
            sys.get_int_max_str_digits(),
            threading.stack_size(),
            csv.field_size_limit(),
        ]

    found = settings()
    gc.disable()
    gc.set_threshold(1000 + number)
    sys.setswitchinterval((6 + number) / 1000)
    sys.set_int_max_str_digits(1000 + number)
    threading.stack_size((1024 + 4 * number) * 1024)
    csv.field_size_limit(1000 + number)
    time.sleep(0.02)
    return [found, settings()]


def thread_left_running(number):
    """It goes on changing what is global for a while, also when nobody waits."""
    import os
    import random
    import tempfile
    import threading
    import time

    random.seed(number)
    values = [random.random(), os.path.isdir(os.getcwd())]
    time.sleep(0.01)
    values += [random.random(), os.environ.get("OF_PROGRAMS")]

    def disturb():
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            random.seed(0)
            os.environ["OF_PROGRAMS"] = "left"
            os.chdir(tempfile.gettempdir())
            time.sleep(0.001)

    threading.Thread(target=disturb, daemon=number % 2 == 0).start()
    return values


def figures(number):
    import time

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = [pyplot.get_fignums(), matplotlib.rcParams["lines.linewidth"]]
    pyplot.figure()
    matplotlib.rcParams["lines.linewidth"] = number
    pyplot.plot([0, number])
    time.sleep(0.02)
    lines = len(pyplot.gca().lines)
    return [found, pyplot.get_fignums(), lines, matplotlib.rcParams["lines.linewidth"]]


# -- what native code keeps ----------------------------------------------------------


def c_random(number):
    """The generator of the C library itself; nobody has seeded it before."""
    import ctypes
    import time

    libc = ctypes.CDLL(None)
    libc.drand48.restype = ctypes.c_double
    found = [libc.rand(), libc.drand48()]
    libc.srand(number + 2)
    libc.srand48(number + 2)
    time.sleep(0.02)
    return [found, [libc.rand(), libc.rand(), libc.drand48()]]


def c_random_and_a_call(number):
    import ctypes

    from seamless.transformer import direct

    def nested(number):
        import ctypes

        libc = ctypes.CDLL(None)
        libc.srand(number + 100)
        return libc.rand()

    libc = ctypes.CDLL(None)
    libc.srand(number + 2)
    return [libc.rand(), direct(nested)(number), libc.rand()]


def c_library(number, library):
    """A library of the user, with static variables as Fortran's COMMON and SAVE."""
    import ctypes
    import time

    code = ctypes.CDLL(library)
    found = [code.count(), code.draw()]
    code.seed(number)
    time.sleep(0.02)
    return [found, code.draw(), code.draw(), code.count()]


def c_library_and_a_call(number, library):
    import ctypes

    from seamless.transformer import direct

    def nested(number, library):
        import ctypes

        code = ctypes.CDLL(library)
        found = [code.count(), code.draw()]
        code.seed(1000 + number)
        return [found, code.draw(), code.count()]

    code = ctypes.CDLL(library)
    found = code.count()
    code.seed(number)
    before = code.draw()
    called = direct(nested)(number, library)
    return [found, before, called, code.draw(), code.count()]


#: what `library` is compiled from
C_LIBRARY = """
static int calls = 0;
static unsigned int state = 12345;
int count(void) { return ++calls; }
void seed(int value) { state = (unsigned int) value; }
int draw(void) { state = state * 1664525u + 1013904223u; return (int) (state >> 8); }
"""

PROGRAMS: dict[str, Callable[..., Any]] = {
    program.__name__: program
    for program in (
        seeded_random,
        seeded_random_without_a_pause,
        seeded_numpy,
        seed_before_a_call,
        seed_before_calls_that_run_together,
        pi,
        working_directory,
        working_directory_and_a_call,
        deleted_directory,
        environment,
        environment_and_a_call,
        umask,
        umask_and_a_call,
        limits,
        time_zone,
        locale_settings,
        warning_filters,
        decimal_context,
        module_on_the_path,
        builtin_names,
        logging_levels,
        numpy_errors,
        numpy_printing,
        temporary_files,
        socket_timeout,
        recursion_limit,
        interpreter_settings,
        thread_left_running,
        figures,
        c_random,
        c_random_and_a_call,
        c_library,
        c_library_and_a_call,
    )
}
