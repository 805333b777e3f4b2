"""Lets remote-http-launcher find its programs where no environment is activated."""

from __future__ import annotations

import os
import shutil
import sysconfig

#: one of the programs of remote-http-launcher, which starts them by their names
PROGRAM = "rhl-inspect"


def make_programs_found() -> None:
    """Append the folder of this Python's programs to ``PATH`` if they are not on it.

    A script may be run with the Python of an environment that is not activated. The
    services are installed beside that Python, and would not be found. The folder comes
    last, so a program that is found already remains the same.
    """
    folder = sysconfig.get_path("scripts")
    if shutil.which(PROGRAM) is None and shutil.which(PROGRAM, path=folder):
        path = os.environ.get("PATH", os.defpath)
        os.environ["PATH"] = os.pathsep.join(filter(None, (path, folder)))
