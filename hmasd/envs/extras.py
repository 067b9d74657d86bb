"""Packages of other people's environments: imported when their env is made, named when missing."""

from __future__ import annotations

import importlib
from types import ModuleType

NO_SUCCESS = (
    "does not tell success: its rate stays 0, so look at the return, and set exploration_start to "
    "0 and losing_entropy to 1, which go by it"
)


class MissingPackageError(ValueError):
    """An env needs a package that is not installed; the message has the line that installs it."""


def install_line(extra: str) -> str:
    """The line that installs one of the project's extras, from the project's folder."""
    return f'pip install -c constraints.txt -e ".[{extra}]"'


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its full name.
        extra: the project's extra that brings it.

    Raises:
        MissingPackageError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0].startswith("hmasd"):
            raise
        raise MissingPackageError(
            f"this env needs {module.partition('.')[0]}, but {error.name} is not installed: "
            f"{install_line(extra)}"
        ) from error
