"""docs/metrics.md explains what runs log, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hmasd.telemetry.jsonl import read_lines
from tests.helpers.pages import ROOT, explained_metrics
from tests.helpers.runs import register_small_envs, run, tiny_config

TEXT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
COLUMNS = {"env_steps", "time/wall"}  # of every line: what the others are plotted against
OF_OTHER_PROCESSES = {
    "time/evaluation_lag_steps",
    "time/evaluations_lost",
    "time/evaluations_waiting",
    "time/reduce",
}
WHERE_THE_GRADIENT_IS_KNOWN = {"low/noise_scale"}
EXPLORES = {"exploration_start": 24, "survey_interval": 1, "high_level_batch_size": 1}
RUNS: tuple[dict[str, Any], ...] = (
    {},
    EXPLORES | {"exploration_batch_size": 1},
    {"batch_schedule": "noise"},
    {"sync_mode": False},
)


@pytest.mark.parametrize("tag", sorted(explained_metrics()))
def test_a_metric_has_its_meaning_its_unit_and_what_is_healthy(tag: str) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{tag}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(cells) == 4
    assert all(len(cell) > 0 for cell in cells)


def test_runs_log_what_the_page_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_small_envs(monkeypatch)
    logged: set[str] = set()
    for number, changes in enumerate(RUNS):
        folder = tmp_path / str(number)
        run(tiny_config(output_dir=str(folder), eval_interval=24, total_steps=240, **changes))
        (log,) = folder.glob("runs/*/metrics.jsonl")
        logged |= {re.sub(r"_\d+$", "_{i}", tag) for row in read_lines(log) for tag in row}
    assert logged - explained_metrics() == COLUMNS
    assert explained_metrics() - logged <= OF_OTHER_PROCESSES | WHERE_THE_GRADIENT_IS_KNOWN
