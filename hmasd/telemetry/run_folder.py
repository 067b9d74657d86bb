"""The folder of a run: its configuration, the versions behind it, its metrics and evaluations."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmasd.config import Config

CONFIG_FILE = "config.json"
VERSIONS_FILE = "versions.json"


class RunFolderError(OSError):
    """The folder of a run cannot be made; the message names it, why and what to do."""


def make_run_folder(config: Config, now: datetime | None = None) -> Path:
    """Makes ``<output_dir>/runs/<env>_<seed>_<date-time>/`` with config.json and versions.json.

    Args:
        config: The resolved configuration.
        now: Local time of the start; None: now. A second run within the same second gets a number.

    Returns:
        The new folder; its name is the name of the run.

    Raises:
        RunFolderError: It cannot be written.
    """
    env = re.sub(r"[^A-Za-z0-9.-]+", "_", config.env).strip("_.") or "env"
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    name = f"{env}_{config.seed}_{stamp}"
    runs = Path(config.output_dir) / "runs"
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not runs.is_dir():
                raise _cannot_write(folder, f"{runs} is not a folder") from None
            number += 1
        except OSError as error:
            raise _cannot_write(folder, error.strerror or str(error)) from error
        else:
            _describe(folder, config)
            return folder


def open_run_folder(config: Config, name: str, env_steps: int) -> Path:
    """Opens the folder of a run that goes on; makes it anew if it is gone.

    Args:
        config: The resolved configuration.
        name: Name of the run, as the checkpoint has it.
        env_steps: Where it goes on.

    Returns:
        The folder; the config.json and versions.json of the start are kept where they exist, and
        those from here on are config_<env_steps>.json and versions_<env_steps>.json.

    Raises:
        RunFolderError: It cannot be written.
    """
    folder = Path(config.output_dir) / "runs" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or str(error)) from error
    _describe(folder, config)
    _describe(folder, config, env_steps)
    return folder


def version_files(folder: Path) -> list[Path]:
    """Returns the files of `versions`: of the start, then of each time that the run went on."""
    found = ((re.fullmatch(r"versions_(\d+)\.json", x.name), x) for x in folder.glob("*.json"))
    later = sorted((int(name[1]), path) for name, path in found if name is not None)
    return [folder / VERSIONS_FILE, *(path for _, path in later)]


def versions() -> dict[str, str | bool | None]:
    """Returns what the numbers of a run depend on: versions, platform and the git commit.

    `git_has_changes`: whether files of the package are not those of the commit. Files that git
    does not know do not count: they may lie there for any reason.
    """
    is_known = bool(_git("ls-files", "__init__.py"))
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".") if is_known else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "git_commit": _git("rev-parse", "HEAD") if is_known else None,
        "git_has_changes": None if changes is None else bool(changes),
    }


def _describe(folder: Path, config: Config, env_steps: int | None = None) -> None:
    """Writes settings and versions: of the start (None) once, of where a run goes on each time.

    From the same checkpoint it may go on twice, and what it did after the first time is gone.
    """
    suffix, mode = ("", "x") if env_steps is None else (f"_{env_steps}", "w")
    try:
        _write(folder / f"config{suffix}.json", dataclasses.asdict(config), mode)
        _write(folder / f"versions{suffix}.json", versions(), mode)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or str(error)) from error


def _write(path: Path, content: Mapping[str, Any], mode: str) -> None:
    """Writes a JSON file; with mode "x" one that exists is kept."""
    with suppress(FileExistsError), path.open(mode, encoding="utf-8") as target:
        json.dump(content, target, indent=2)
        target.write("\n")


def _git(*arguments: str) -> str | None:
    """Returns what git says in the folder of this package; None without git or a repository."""
    package = Path(__file__).resolve().parents[1]
    words = ["git", "--no-optional-locks", "-C", str(package), *arguments]  # others may use it, too
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cannot_write(path: Path, reason: str) -> RunFolderError:
    """Returns the error for a folder or file that cannot be written."""
    return RunFolderError(
        f"cannot write {path}: {reason}. Make {path.parent} writable or choose another "
        "--output-dir."
    )
