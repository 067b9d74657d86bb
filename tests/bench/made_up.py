"""A comparison whose runs' folders are written by hand: no training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hmasd.bench import files
from hmasd.bench.job import Job
from hmasd.bench.runner import make_jobs
from hmasd.bench.spec import Spec, read_spec

TEXT = """
env_steps: 4000
eval_interval: 2000
eval_episodes: 32
absolute_factor: 1
seeds: 3
tasks:
  exact: {env: alice_and_bob}
algorithms:
  good: {}
  bad_one: {gamma: 0.9}
"""


def make_comparison(folder: Path, text: str = TEXT) -> tuple[Spec, list[Job]]:
    """The comparison's runs, none begun."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "made_up.yaml"
    path.write_text(text)
    spec = read_spec(path)
    return spec, make_jobs(spec, folder / "out")


def episodes(share: float, count: int = 32) -> list[dict]:
    """Rows of both ways of playing, of which a share succeeds."""
    return [
        {"mode": mode, "episode": i, "success": won, "return": float(won), "length": 10}
        for mode in ("greedy", "stochastic")
        for i, won in enumerate((np.arange(count) < share * count).tolist())
    ]


def write_training(job: Job, shares: list[float]) -> None:
    """What training leaves, one evaluation per share."""
    training = job.folder / "runs" / "alice_1"
    training.mkdir(parents=True)
    rows, metrics = [], []
    for number, share in enumerate(shares, 1):
        steps = number * 2048
        rows += [{"env_steps": steps} | row for row in episodes(share)]
        metrics.append(
            {"env_steps": steps, "rollout/success": share, "rollout/return": share}
            | {"rollout/episodes": 100 * number}
            | {f"eval/{mode}_success": share for mode in ("greedy", "stochastic")}
        )
    for name, lines in (("evaluations", rows), ("metrics", metrics)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (training / f"{name}.jsonl").write_text(text)


def finish(job: Job, shares: list[float], best: float) -> None:
    """A finished run: its evaluations, and what its best policy reaches."""
    write_training(job, shares)
    files.write_json(job.folder / files.ABSOLUTE, {"env_steps": 4096, "episodes": episodes(best)})


def fail(job: Job, shares: list[float]) -> None:
    """A run that failed after some evaluations."""
    write_training(job, shares)
    files.write_json(job.folder / files.FAILED, {"exit_code": 1, "last_words": "error: NaN | x"})


def play(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let every job run a small program instead of training."""
    words = (sys.executable, "-c", program)
    monkeypatch.setattr(Job, "_next_command", lambda self: words)
