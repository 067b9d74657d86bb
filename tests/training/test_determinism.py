"""Same seed, same run; looking at a run changes no number of it (trap 11)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from hmasd.config import Config
from hmasd.telemetry.logs import close_logging
from hmasd.training import evaluation, loop
from hmasd.training.evaluation import evaluate
from hmasd.training.loop import Trainer
from tests.helpers.runs import Result, assert_same_result, result, run


def training_of(config: Config, folder: Path, **changes: Any) -> Result:
    """What a run leaves behind, without the evaluations' own numbers."""
    trainer = run(dataclasses.replace(config, output_dir=str(folder), **changes))
    content, rows, _ = result(trainer)
    rows = [{tag: x for tag, x in row.items() if not tag.startswith("eval/")} for row in rows]
    return Result(content, rows, [])


@pytest.fixture
def reference(config: Config, tmp_path: Path) -> Result:
    return training_of(config, tmp_path / "reference")


def test_same_seed_same_run(config: Config, reference: Result, tmp_path: Path) -> None:
    torch.rand(7)  # the global generator plays no part
    assert_same_result(training_of(config, tmp_path / "again"), reference)


def test_another_seed_is_another_run(config: Config, reference: Result, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        assert_same_result(training_of(config, tmp_path / "other", seed=2), reference)


LOOKS: dict[str, dict[str, Any]] = {
    "evaluation": {"eval_interval": 12, "eval_episodes": 2},
    "evaluation, seldom": {"eval_interval": 30, "eval_episodes": 4},
    "debug log": {"log_level": "DEBUG"},
    "silent log": {"log_level": "ERROR"},
    "checkpoints": {"checkpoint_interval": 6},
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_changes_nothing(
    config: Config, reference: Result, tmp_path: Path, look: str
) -> None:
    assert_same_result(training_of(config, tmp_path / "looked", **LOOKS[look]), reference)
    close_logging()


@pytest.mark.parametrize("env_name", ["counter", "alice_and_bob"])
def test_rendering_changes_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_name: str
) -> None:
    config = dataclasses.replace(config, env=env_name, total_steps=36)
    plain = training_of(config, tmp_path / "plain")
    pictures = []
    make = loop.make_env

    def make_filmed(*args: Any) -> Any:
        env = make(*args)
        play = env.step

        def step(action: Any) -> Any:
            pictures.append(env.render(1))
            played = play(action)
            pictures.append(env.render(0))
            return played

        env.step = step
        return env

    monkeypatch.setattr(loop, "make_env", make_filmed)
    assert_same_result(training_of(config, tmp_path / "filmed"), plain)
    assert len(pictures) == 2 * config.total_steps // config.num_envs


def draws_from_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(agent):
        torch.rand(1, generator=agent.generators["action"])
        return evaluate(agent)

    monkeypatch.setattr(evaluation, "evaluate", wrong)


def moves_the_teams_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(agent):
        agent.team.clock.interrupt()
        return evaluate(agent)

    monkeypatch.setattr(evaluation, "evaluate", wrong)


def plays_on_training_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Trainer._evaluation

    def wrong(self: Trainer, samples: int) -> dict[str, float]:
        metrics = begin(self, samples)
        if metrics:
            self.view = self.env.reset(5)
        return metrics

    monkeypatch.setattr(Trainer, "_evaluation", wrong)


@pytest.mark.parametrize(
    "plant", [draws_from_training, moves_the_teams_clock, plays_on_training_envs]
)
def test_control_an_evaluation_that_touches_training_is_caught(
    config: Config, reference: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant
) -> None:
    plant(monkeypatch)
    looked = training_of(config, tmp_path / "looked", eval_interval=12)
    with pytest.raises(AssertionError):
        assert_same_result(looked, reference)
