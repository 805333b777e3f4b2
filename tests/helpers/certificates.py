"""Certificates, and schedulers that ask for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes certificates with openssl"
)


Pair = tuple[str, str]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Two that vouch for themselves, with their keys."""
    directory = tmp_path_factory.mktemp("certificates")
    pairs = {}
    for name in ("ours", "theirs"):
        cert, key = pairs[name] = (
            str(directory / f"{name}.crt"),
            str(directory / f"{name}.key"),
        )
        command = "openssl req -x509 -nodes -days 2 -newkey ec".split()
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-subj", f"/CN={name}", "-out", cert, "-keyout", key]
        subprocess.run(command, check=True, capture_output=True)
        os.chmod(key, 0o600)
    return pairs


def configuration(certificate: str, key: str) -> dict[str, Any]:
    pair = {"cert": certificate, "key": key}
    roles = dict.fromkeys(("client", "scheduler", "worker"), pair)
    tls = {"ca-file": certificate, **roles}
    return {"distributed": {"comm": {"require-encryption": True, "tls": tls}}}
