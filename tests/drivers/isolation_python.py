"""More programs as in ``isolation_programs.py``: what Python and its modules keep."""

from __future__ import annotations


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


PROGRAMS = [
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
]
