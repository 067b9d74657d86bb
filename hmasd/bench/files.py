"""Where the files of a comparison lie, and JSON that is written whole or not at all.

OUT/runs/TASK/ALGORITHM/seed_N/   one run: an --output-dir of training, and
settings.json                 what it was started with
log.txt                       what training printed
absolute.json                 the best policy on new episodes; there when the run is done
diagnosis.json, skills.png    why it learned or not
failed.json                   exit code and last words, if it failed
failed_1.json ...             of earlier times, after which it was taken up again
OUT/report/                       tables, figures, per-episode rows
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hmasd.bench import shapes
from hmasd.disk import write_whole
from hmasd.settings import ConfigError

RUNS = "runs"
REPORT = "report"
SETTINGS = "settings.json"
LOG = "log.txt"
ABSOLUTE = "absolute.json"
DIAGNOSIS = "diagnosis.json"
FAILED = "failed.json"
EARLIER_FAILURE = "failed_{}.json"
LOCK = "lock"
SHAPES = {
    "absolute": shapes.ABSOLUTE,
    "diagnosis": shapes.DIAGNOSIS,
    "failed": shapes.FAILURE,
    "versions": shapes.VERSIONS,
    "settings": {},
    "config": {},
}
"""Of files by their names without a number; others may hold anything."""


def write_json(path: Path, content: Any) -> None:
    """Write a file in one piece; NaN and infinity are refused with ValueError."""
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


class DamagedError(ConfigError):
    """A file of a run cannot be read; the message says which, why and what to do."""


def read_json(path: Path) -> Any:
    """The content of a file of `write_json`; None if it does not exist.

    Raises:
        DamagedError: It is damaged, or not what a file of its name holds.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedError(_damage(path, error)) from error
    shape = SHAPES.get(re.sub(r"_\d+$", "", path.stem))
    if shape is not None and not shapes.fits(content, shape):
        raise DamagedError(_damage(path, "it holds something else than it should"))
    return content


def _damage(path: Path, reason: object) -> str:
    return (
        f"{path} is damaged ({reason}): delete it, and the same command goes on from the rest of "
        "the run"
    )


def read_if_whole(path: Path, damaged: list[str] | None = None) -> Any:
    """As `read_json`, None also if it is damaged; its name is added to `damaged` then."""
    try:
        return read_json(path)
    except DamagedError:
        if damaged is not None:
            damaged.append(path.name)
        return None


def read_failure(folder: Path) -> Any:
    """Exit code and last words of a run that failed, also where they are damaged; else None."""
    try:
        return read_json(folder / FAILED)
    except DamagedError:  # that it failed is known
        return {"exit_code": "?", "last_words": f"{FAILED} is damaged"}


def earlier_failures(folder: Path) -> list[int]:
    """Numbers of the times that a run failed and was taken up again."""
    found = (re.fullmatch(r"failed_(\d+)\.json", path.name) for path in folder.glob("*.json"))
    return [int(name[1]) for name in found if name is not None]


def training_folder(folder: Path) -> Path | None:
    """The folder with the metrics of a run; None before training has made it."""
    found = sorted((folder / "runs").glob("*/metrics.jsonl"))
    return found[0].parent if found else None
