"""The package as its callers meet it: a light import, its exports, its metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest
import yaml
from helpers.paths import ROOT

EXPORTS = [
    "DummySchedulerHandle",
    "SeamlessDaskClient",
    "TransformationDaskMixin",
    "create_dummy_client",
    "create_dummy_scheduler",
    "get_dummy_scheduler_address",
    "get_seamless_dask_client",
    "serve_dummy_scheduler",
    "set_seamless_dask_client",
    "start_dummy_scheduler",
]

#: what every Seamless process imports, whether it uses Dask or not
LIGHT_MODULES = [
    "seamless_dask",
    "seamless_dask.permissions",
    "seamless_dask.transformation_mixin",
    "seamless_dask.transformer_client",
    "seamless_dask.types",
]


def run_python(code: str) -> str:
    """The output of a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_import_is_light(module: str) -> None:
    """Neither distributed nor the half-imported seamless_transformer comes along."""
    code = (
        f"import json, sys, {module}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(run_python(code))
    assert not {"distributed", "dask", "seamless_transformer"} & set(loaded)


def test_exports_are_sorted_and_complete() -> None:
    """``__all__`` names what the package promises, in order, and nothing else."""
    import seamless_dask

    assert seamless_dask.__all__ == EXPORTS
    assert set(EXPORTS) <= set(dir(seamless_dask))


@pytest.mark.parametrize("name", EXPORTS)
def test_export_resolves(name: str) -> None:
    """Each export is loaded on first use and carries the name it is known by."""
    import seamless_dask

    assert getattr(seamless_dask, name).__name__ == name


def test_unknown_attribute_is_an_attribute_error() -> None:
    """Lazy exports do not turn a typing error into an import error."""
    import seamless_dask

    with pytest.raises(AttributeError, match="no_such_name"):
        seamless_dask.no_such_name  # noqa: B018 - the access is the test


def test_mixin_is_installed_in_seamless_transformer() -> None:
    """seamless-transformer swallows our import errors, so look at what it took."""
    code = (
        "from seamless_transformer.transformation_class import Transformation\n"
        "from seamless_dask.transformation_mixin import TransformationDaskMixin\n"
        "print(issubclass(Transformation, TransformationDaskMixin))"
    )
    assert run_python(code).split() == ["True"]


def test_metadata() -> None:
    """Name, version and the one command; how to cite it."""
    import seamless_dask

    distribution = metadata.distribution("seamless-dask")
    assert distribution.metadata["Name"] == "seamless-dask"
    assert distribution.version == "0.5.0" == seamless_dask.__version__
    scripts = {
        entry.name: entry.value
        for entry in distribution.entry_points
        if entry.group == "console_scripts"
    }
    assert scripts == {"seamless-dask-wrapper": "seamless_dask.wrapper:main"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == distribution.version
    assert citation["license"] == distribution.metadata["License-Expression"]
