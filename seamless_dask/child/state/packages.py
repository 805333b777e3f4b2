"""The parts of the state of a process that are settings of packages, if it loads them."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .part import Part, loaded


class Matplotlib(Part):
    """If matplotlib is loaded: its baseline is the configuration in ``matplotlibrc``."""

    title = "matplotlib: `rcParams`, backend, open figures of pyplot"

    def __init__(self) -> None:
        #: original settings, with copies of the lists, which may be changed in place
        self._originals: list[tuple[Any, dict[str, Any]]] = []
        if (module := self._module()) is not None:
            self._originals = [
                (parameters, self._mutable(parameters))
                for parameters in (module.rcParamsDefault, module.rcParamsOrig)
            ]

    def save(self) -> Any:
        matplotlib = self._module()
        if matplotlib is None:
            return None
        self._find_originals(matplotlib)
        pyplot = loaded("matplotlib.pyplot")
        backend = vars(pyplot).get("_backend_mod") if pyplot else None
        figures = dict(self._figures())
        # not its own items(), which chooses a backend
        parameters = dict(dict.items(matplotlib.rcParams))
        mutable = self._mutable(parameters, self._originals[-1][1])
        return parameters, mutable, backend, figures

    @staticmethod
    def _module() -> Any:
        module = loaded("matplotlib")
        return module if hasattr(module, "rcParamsOrig") else None

    @staticmethod
    def _figures() -> Any:
        helpers: Any = loaded("matplotlib._pylab_helpers")
        return helpers.Gcf.figs if hasattr(helpers, "Gcf") else {}

    @staticmethod
    def _mutable(
        parameters: dict[str, Any], known: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Return copies of all lists; where one in `known` is equal, return that."""
        return {
            name: known[name] if known.get(name) == value else copy.deepcopy(value)
            for name, value in dict.items(parameters)
            if isinstance(value, list)
        }

    def restore(self, saved: Any) -> None:
        matplotlib = self._module()
        if matplotlib is None:
            return
        if saved is None:
            self.reset()
            return
        parameters, mutable, backend, figures = saved
        dict.update(matplotlib.rcParams, parameters)
        self._put_back_lists(matplotlib.rcParams, mutable)
        pyplot = loaded("matplotlib.pyplot")
        if pyplot is not None:
            vars(pyplot)["_backend_mod"] = backend
        now = self._figures()
        now.clear()
        now.update(figures)

    @staticmethod
    def _put_back_lists(parameters: Any, mutable: dict[str, Any]) -> None:
        for name, value in mutable.items():
            if dict.get(parameters, name) != value:
                dict.__setitem__(parameters, name, copy.deepcopy(value))

    def reset(self) -> list[str]:
        matplotlib = self._module()
        if matplotlib is not None:
            self._find_originals(matplotlib)
            for parameters, mutable in self._originals:
                self._put_back_lists(parameters, mutable)
            # Figures are not destroyed: a waiting job may go on with its own.
            self.restore((dict(dict.items(parameters)), mutable, None, {}))
        return []

    def _find_originals(self, matplotlib: Any) -> None:
        """Read the original settings from files, if a job has loaded matplotlib.

        The job may have changed lists in place, which the original settings share.
        """
        if self._originals:
            return
        template = os.path.join(matplotlib.get_data_path(), "matplotlibrc")
        read = matplotlib._rc_params_in_file
        default = self._mutable(matplotlib.rcParamsDefault)
        default |= self._mutable(
            read(template, transform=lambda line: line.removeprefix("#"))
        )
        own = default | self._mutable(read(matplotlib.matplotlib_fname()))
        self._originals = [
            (matplotlib.rcParamsDefault, default),
            (matplotlib.rcParamsOrig, own),
        ]


class PandasOptions(Part):
    """If pandas is loaded: its baseline is the default of each option."""

    title = "pandas: options"

    @staticmethod
    def _places() -> list[tuple[Any, dict[str, Any], str]]:
        """Return each option with the dictionary and the key of its value."""
        config: Any = loaded("pandas._config.config")
        if config is None:
            return []
        return [
            (option, *config._get_root(name))
            for name, option in list(config._registered_options.items())
        ]

    def save(self) -> dict[str, Any]:
        return {option.key: values[key] for option, values, key in self._places()}

    def restore(self, saved: dict[str, Any]) -> None:
        for option, values, key in self._places():
            wanted = saved.get(option.key, option.defval)
            if values[key] is not wanted:
                values[key] = wanted
                if option.cb is not None:
                    option.cb(option.key)

    def reset(self) -> list[str]:
        self.restore({})
        return []


def package_parts() -> list[Part]:
    """Return these parts, in the order in which they are put back."""
    return [Matplotlib(), PandasOptions()]
