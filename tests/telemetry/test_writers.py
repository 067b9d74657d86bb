"""Metrics reach JSON lines and TensorBoard, and a resumed log equals the uninterrupted one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hmasd.telemetry.jsonl import JsonLines, read_lines, repair
from hmasd.telemetry.writers import MetricsLog


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """All lines, without what may differ between two equal runs."""
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_lines(folder / "run" / name)
    ]


def opened(folder: Path, resume_at: int | None = None) -> MetricsLog:
    return MetricsLog(folder / "run", folder / "tf", resume_at)


def train(log: MetricsLog, first: int, last: int) -> None:
    for i in range(first, last + 1):
        metrics = {"low/kl": 1 / (3 + i)} | ({"rollout/success": i / 10} if i % 2 else {})
        log.write(metrics, i * 1024)
        if i % 3 == 0:
            episodes = [{"mode": "greedy", "episode": e, "return": i + e / 7} for e in range(2)]
            log.write_evaluation(episodes, i * 1024)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder / "tf"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_a_line_per_round_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.write({"low/kl": 0.1, "low/entropy": np.float32(0.5), "x": torch.tensor(2)}, 1024)
        (row,) = read_lines(tmp_path / "run" / "metrics.jsonl")  # while the log is still open
    assert row.pop("time/wall") > 1.7e9
    assert row == {"env_steps": 1024, "low/kl": 0.1, "low/entropy": 0.5, "x": 2.0}


def test_evaluation_episodes(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        row = {"mode": "greedy", "success": np.bool_(True), "length": np.int64(9), "return": 1.0}
        log.write_evaluation([row, row], 2048)
    expected = {"env_steps": 2048, "mode": "greedy", "success": True, "length": 9, "return": 1.0}
    assert rows(tmp_path, "evaluations.jsonl") == [expected, expected]


def test_tensorboard_has_the_same_numbers_at_env_steps(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        train(log, 1, 6)
    assert scalars(tmp_path, "low/kl") == [
        (i * 1024, pytest.approx(1 / (3 + i))) for i in range(1, 7)
    ]
    assert [step for step, _ in scalars(tmp_path, "rollout/success")] == [1024, 3072, 5120]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -np.inf, torch.tensor(np.nan)])
def test_what_is_not_finite_is_refused_and_nothing_written(tmp_path: Path, bad: Any) -> None:
    with opened(tmp_path) as log:
        with pytest.raises(ValueError, match=r"'high/kl' is -?(nan|inf) at 1024 env steps"):
            log.write({"low/kl": 0.1, "high/kl": bad}, 1024)
        with pytest.raises(ValueError, match="'return' is"):
            log.write_evaluation([{"return": 1.0}, {"return": float(bad)}], 1024)
    assert rows(tmp_path) == rows(tmp_path, "evaluations.jsonl") == []
    with pytest.raises(KeyError):
        scalars(tmp_path, "low/kl")


@pytest.mark.parametrize("lost", [0, 1, 7])
def test_a_resumed_log_equals_the_uninterrupted_one(tmp_path: Path, lost: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with opened(whole) as log:
        train(log, 1, 12)
    with opened(cut) as log:
        train(log, 1, 8)  # the last checkpoint was at 5
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        path = cut / "run" / name
        os.truncate(path, path.stat().st_size - lost)
    with opened(cut, resume_at=5 * 1024) as log:
        train(log, 6, 12)
    assert rows(cut) == rows(whole)
    assert len(rows(whole)) == 12
    assert rows(cut, "evaluations.jsonl") == rows(whole, "evaluations.jsonl")
    assert scalars(cut, "low/kl") == scalars(whole, "low/kl")
    assert scalars(cut, "rollout/success") == scalars(whole, "rollout/success")
    assert {p.name for p in (cut / "run").iterdir()} == {"metrics.jsonl", "evaluations.jsonl"}


def test_event_files_sort_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    made = []
    for i in range(3):
        opened(tmp_path, resume_at=i).close()
        made += [path.name for path in (tmp_path / "tf").iterdir() if path.name not in made]
    assert len({name.split(".")[3] for name in made}) == 3
    assert made == sorted(made)


def test_opening_again_without_a_checkpoint_appends(tmp_path: Path) -> None:
    for i in (1, 2):
        with opened(tmp_path) as log:
            train(log, i, i)
    assert [row["env_steps"] for row in rows(tmp_path)] == [1024, 2048]


def test_sync_and_closing_twice(tmp_path: Path) -> None:
    log = opened(tmp_path)
    train(log, 1, 1)
    log.sync()
    assert scalars(tmp_path, "low/kl") == [(1024, 0.25)]
    log.close()
    log.close()


@pytest.mark.parametrize("cut", range(1, 19))
def test_a_line_cut_off_anywhere_goes(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    first, second = '{"env_steps": 1}\n', '{"env_steps": 22}\n'
    path.write_text(first + second[: len(second) - cut])
    lines = JsonLines(path)
    lines.append({"env_steps": 3})
    lines.close()
    # Without only its line end the second object is whole.
    kept = [{"env_steps": 1}] + ([{"env_steps": 22}] if cut == 1 else [])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *kept,
        {"env_steps": 3},
    ]


def test_a_good_file_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"env_steps": 1}\n')
    before = path.stat()
    repair(path, lambda row: row["env_steps"] > 1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_damage_in_the_middle_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"env_steps": 1}\n\x00\x00\xff\n[1]\n{"env_steps": 2}\n{"en')
    assert [row["env_steps"] for row in read_lines(path)] == [1, 2]
    assert [record.args[1] for record in caplog.records] == [2, 3]  # type: ignore[index]
