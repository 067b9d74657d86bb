"""Curves are drawn from metrics.jsonl alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from hmasd.viz.curves import draw, main, read_run, save_curves, smooth, steps_label


def write_run(folder: Path, rounds: int = 400, seed: int = 0) -> Path:
    """Makes up a run that learns."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(1, rounds + 1):
            progress = 1 / (1 + np.exp(-(i / rounds - 0.3 - 0.07 * seed) * 20))
            noise = generator.normal(0, 0.04)
            row: dict[str, Any] = {
                "env_steps": i * 1024,
                "disc/team_accuracy": float(np.clip(0.5 + 0.3 * progress + noise, 0, 1)),
                "disc/team_chance": 0.5,
                "disc/individual_accuracy": float(np.clip(0.12 + 0.6 * progress + noise, 0, 1)),
                "disc/individual_chance": 0.125,
                "low/entropy": float(1.6 - 0.7 * progress + noise / 3),
            }
            if i > 3:
                row["rollout/success"] = float(np.clip(progress + noise, 0, 1))
            if i % 4 == 0:
                row["high/entropy_team"] = float(0.69 - 0.5 * progress + noise / 2)
                row["high/entropy_agent"] = float(2.08 - 1.1 * progress + noise / 2)
            if i % 20 == 0:
                row["eval/greedy_success"] = float(round(progress * 0.9 * 100) / 100)
                row["eval/stochastic_success"] = float(round(progress * 100) / 100)
            file.write(json.dumps(row) + "\n")
    return folder


def test_reading_takes_the_points_that_exist(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a_1", rounds=40))
    assert run.name == "a_1"
    assert run.curves["eval/greedy_success"].steps.tolist() == [20 * 1024, 40 * 1024]
    assert run.curves["rollout/success"].steps[0] == 4 * 1024
    assert read_run(tmp_path / "a_1" / "metrics.jsonl").name == "a_1"


def test_one_line_per_run_and_metric(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / f"a_{seed}", rounds=40, seed=seed)) for seed in (1, 2)]
    axes = draw(runs).axes
    assert [len(axis.lines) for axis in axes] == [2, 4, 3, 3, 4, 2]  # with the lines of chance
    success = axes[0].lines[1]
    assert np.array_equal(success.get_ydata(), runs[1].curves["rollout/success"].values)


@pytest.mark.parametrize(
    ("success", "title"), [(0.0, "Return in training"), (0.5, "Success in training")]
)
def test_returns_stand_in_where_there_is_no_success(
    tmp_path: Path, success: float, title: str
) -> None:
    rows = [
        {"env_steps": 10 * i, "rollout/success": success, "rollout/return": -70.0 + i}
        for i in range(1, 4)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    axis = draw([read_run(tmp_path)]).axes[0]
    assert axis.get_title(loc="left") == title
    wanted = [-69, -68, -67] if success == 0 else [0.5] * 3
    assert axis.lines[0].get_ydata().tolist() == wanted


def test_the_picture_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "curves.png"
    save_curves([write_run(tmp_path / "a_1")], out, "A title")
    image = matplotlib.image.imread(out)
    assert image.shape[0] > 800
    assert image[..., :3].std() > 0.02  # something is drawn


def test_a_run_that_has_just_begun_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    save_curves([tmp_path], tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().count("<svg") == 1


def test_smoothing_is_a_centred_mean_and_shorter_at_the_ends() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0])
    assert smooth(values, 3).tolist() == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert smooth(values, 1) is values


def test_labels_of_steps() -> None:
    assert [steps_label(x) for x in (0, 500, 250_000, 1_500_000)] == ["0", "500", "250k", "1.5M"]


def test_the_command_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.png"
    assert main([str(write_run(tmp_path / "a", rounds=5)), "--out", str(out)]) == 0
    assert out.exists()
    assert main([str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "no metrics in" in capsys.readouterr().err
    assert main([str(tmp_path / "a"), "--out", str(tmp_path / "c.unknown")]) == 1
    (tmp_path / "evaluated").mkdir()  # as --eval-only leaves it
    folders = [str(tmp_path / name) for name in ("a", "evaluated")]
    assert main([*folders, "--out", str(out)]) == 0
    assert f"{folders[1]} has no metrics, as after --eval-only: left out" in capsys.readouterr().err
    assert main([folders[1], "--out", str(out)]) == 1  # nothing is left


def test_viz_imports_no_training() -> None:
    code = (
        "import sys, hmasd.viz.curves\n"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith(('hmasd.training',"
        " 'hmasd.agent', 'hmasd.algorithm', 'hmasd.networks'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
