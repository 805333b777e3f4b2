"""Programs that set what is global in a process, pause, and use it.

Each is the code of a transformation: what it needs is imported and defined inside.
Each first returns what it finds (what others may have left), then what it gets after a
pause (in which others may have changed it), and leaves everything as it is then. Alone,
in a fresh process, each gives the same for the same `number` every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers import isolation_python

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
        *isolation_python.PROGRAMS,
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
        c_random,
        c_random_and_a_call,
        c_library,
        c_library_and_a_call,
    )
}
