"""The cluster string and the ports."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from seamless_dask.wrapper.cluster_string import resolve
from seamless_dask.wrapper.exit_codes import ClusterStringError, NoFreePort
from seamless_dask.wrapper.settings.ports import free_ports


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Returns a function that writes a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name: str, text: str) -> None:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "text", ["distributed::LocalCluster", "dask.distributed::LocalCluster"]
)
def test_local_cluster(text: str) -> None:
    """Both names of the module work."""
    from distributed import LocalCluster

    found = resolve(text)
    assert (found.cls, found.kind) == (LocalCluster, "local")


def test_handlers_of_signals_stay() -> None:
    """After Ctrl-C, --check and --dry-run must not end as if all was well."""
    before = signal.getsignal(signal.SIGINT)
    sys.modules.pop("dask_jobqueue.runner", None)
    sys.modules.pop("dask_jobqueue", None)
    resolve("dask_jobqueue::SLURMCluster")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("symbol", "system"),
    [("SLURMCluster", "slurm"), ("OARCluster", "oar"), ("PBSCluster", "pbs")],
)
def test_batch_systems(symbol: str, system: str) -> None:
    """The batch system is known by its section of the configuration."""
    found = resolve(f"dask_jobqueue::{symbol}")
    assert (found.cls.__name__, found.kind) == (symbol, "jobqueue")
    assert found.batch_system == system


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("LocalCluster", "MODULE::SYMBOL"),
        ("distributed:LocalCluster", "MODULE::SYMBOL"),
        ("::LocalCluster", "MODULE::SYMBOL"),
        ("distributed::", "MODULE::SYMBOL"),
        ("no_such_module::X", "'no_such_module', which is not installed."),
        ("dask_jobque::X", r"not installed \(did you mean dask_jobqueue\?\)."),
        (
            "distributed::LocalCLuster",
            r"'LocalCLuster' \(did you mean LocalCluster\?\).",
        ),
        ("distributed::NoSuchCluster", "has no 'NoSuchCluster'"),
        ("distributed::Client", "no cluster class"),
        ("os::getcwd", "no cluster class"),
        ("distributed::SpecCluster", "only LocalCluster"),
        ("dask_jobqueue::JobQueueCluster", "base class"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    """Each mistake has a sentence of its own."""
    with pytest.raises(ClusterStringError, match=reason):
        resolve(text)


def test_a_module_that_fails(module) -> None:
    """A module that raises on import is named with its reason."""
    module("wrapper_broken", "raise RuntimeError('no licence')")
    with pytest.raises(ClusterStringError, match="no licence"):
        resolve("wrapper_broken::Cluster")


def test_an_instance_is_refused(module) -> None:
    """A cluster that exists already is not ours to supervise."""
    module(
        "wrapper_instance",
        "from distributed import LocalCluster\n"
        "cluster = LocalCluster(n_workers=0, processes=False, dashboard_address=':0')",
    )
    import importlib

    cluster = importlib.import_module("wrapper_instance").cluster
    try:
        with pytest.raises(ClusterStringError, match="exists already"):
            resolve("wrapper_instance::cluster")
    finally:
        cluster.close()


def test_two_ports() -> None:
    """Ports are different, free and within the range."""
    port, other = free_ports("127.0.0.1", 20000, 29999, 2)
    assert port != other
    for found in (port, other):
        assert 20000 <= found <= 29999
        with socket.create_server(("127.0.0.1", found)):
            pass


def test_taken_and_avoided_ports() -> None:
    """A range without enough free ports is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NoFreePort, match=f"{port}-{port} on host 127.0.0.1 has 0"):
            free_ports("127.0.0.1", port, port, 1)
    with pytest.raises(NoFreePort, match="has 1 free port, but 2"):
        free_ports("127.0.0.1", port, port, 2)
    with pytest.raises(NoFreePort):
        free_ports("127.0.0.1", port, port, 1, avoid=[port])


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_foreign_host(host: str) -> None:
    """A host that is not this machine is no question of ports."""
    with pytest.raises(NoFreePort, match="--host"):
        free_ports(host, 20000, 29999, 2)
