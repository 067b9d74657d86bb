"""The loop: rounds to the end, checkpoints and evaluations exactly where they are due."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from hmasd import checkpoint
from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.telemetry.jsonl import read_lines
from hmasd.training.evaluation import evaluate, evaluate_checkpoint
from hmasd.training.loop import Trainer, train
from tests.helpers.runs import Cut, run


def checkpoints(config: Config) -> set[str]:
    return {path.name for path in (Path(config.output_dir) / "models").iterdir()}


def check_checkpoints(config: Config, interval: int, expected: list[int]) -> None:
    config = dataclasses.replace(config, checkpoint_interval=interval)
    run(config)
    names = {f"hmasd_sync_enhanced_{steps}.pth" for steps in expected}
    assert checkpoints(config) == names | {"hmasd_sync_enhanced_final.pth"}
    for steps in expected:
        path = checkpoint.checkpoint_path(Path(config.output_dir) / "models", steps)
        content = checkpoint.load(path)
        assert content["agent"]["env_steps"] == steps
        assert content["config"] == dataclasses.asdict(config)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (15, [15, 30, 45, 60]),  # multiples in the middle of a round, as 320,000 is with 32 x 32
        (24, [24, 48, 72]),  # at the ends of rounds
        (10, [12, 21, 30, 42, 51, 60, 72]),  # no multiple of num_envs: the first step not before
        (0, []),
    ],
)
def test_checkpoints_are_written_at_multiples_of_the_interval(
    config: Config, interval: int, expected: list[int]
) -> None:
    check_checkpoints(config, interval, expected)


def test_control_checkpoints_at_rounds_ends_only_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed = Trainer._crossed

    def only_at_ends(self: Trainer, interval: int, steps: int) -> bool:
        full = self.agent.should_sync_update()
        return full and crossed(self, interval, self.config.batch_size)

    monkeypatch.setattr(Trainer, "_crossed", only_at_ends)
    with pytest.raises(AssertionError):
        check_checkpoints(config, 15, [15, 30, 45, 60])


def test_the_default_run_saves_320000_in_the_middle_of_a_round() -> None:
    config = Config()
    assert config.checkpoint_interval == 320_000 and config.batch_size == 1024
    assert 320_000 % config.batch_size != 0 and 320_000 % config.num_envs == 0


def test_rounds_go_on_until_all_steps_are_taken(config: Config) -> None:
    config = dataclasses.replace(config, total_steps=50)  # 4.2 rounds: the fifth is finished
    trainer = run(config)
    assert trainer.agent.env_steps == 60 and trainer.agent.policy_version == 5
    rows = list(read_lines(trainer.run_dir / "metrics.jsonl"))
    assert [row["env_steps"] for row in rows] == [12, 24, 36, 48, 60]
    assert [row["Sync/PolicyVersion"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert row["Sync/BatchSize"] == 12 and row["sync/policy_lag"] == 0
        assert row["Sync/CollectionTime"] > 0 and row["Sync/UpdateTime"] > 0


@pytest.mark.parametrize(
    ("interval", "expected"), [(12, [12, 24, 36, 60, 84]), (40, [60, 84]), (100, [84])]
)
def test_evaluations_and_rates_follow_rounds_that_grow(
    config: Config, interval: int, expected: list[int]
) -> None:
    """40 lies in the 24 samples before 60, and not in the 12 that a round had at first."""
    growing = {"batch_schedule": "linear", "max_batch_factor": 2, "eval_episodes": 1}
    trainer = run(dataclasses.replace(config, eval_interval=interval, **growing))
    rows = list(read_lines(trainer.run_dir / "metrics.jsonl"))
    assert [row["env_steps"] for row in rows] == [12, 24, 36, 60, 84]
    assert [row["Sync/BatchSize"] for row in rows] == [12, 12, 12, 24, 24]
    assert [row["env_steps"] for row in rows if "eval/greedy_success" in row] == expected
    for row in rows:
        rate = row["time/collect_steps_per_second"]
        assert rate * row["Sync/CollectionTime"] == pytest.approx(row["Sync/BatchSize"])


@pytest.mark.parametrize(
    ("interval", "expected"), [(12, [12, 24, 36, 48, 60, 72]), (30, [36, 60, 72]), (0, [])]
)
def test_evaluations_come_with_their_interval_and_at_the_end(
    config: Config, interval: int, expected: list[int]
) -> None:
    trainer = run(dataclasses.replace(config, eval_interval=interval, eval_episodes=2))
    rows = list(read_lines(trainer.run_dir / "evaluations.jsonl"))
    assert sorted({row["env_steps"] for row in rows}) == expected
    assert len(rows) == 4 * len(expected)
    logged = [
        row["env_steps"]
        for row in read_lines(trainer.run_dir / "metrics.jsonl")
        if "eval/greedy_success" in row
    ]
    assert logged == expected


def test_a_run_leaves_its_settings_logs_and_events(config: Config) -> None:
    trainer = run(config)
    folder, name = Path(config.output_dir), trainer.run_dir.name
    settings = json.loads((trainer.run_dir / "config.json").read_text(encoding="utf-8"))
    assert settings == dataclasses.asdict(config)
    assert (folder / "logs" / f"{name}.log").read_text(encoding="utf-8")
    assert list((folder / "tf-logs" / name).glob("events.out.tfevents.*"))


def test_a_resumed_run_goes_on_in_its_own_folder(config: Config) -> None:
    stopped = run(config, Cut(7))
    (path,) = (Path(config.output_dir) / "models").iterdir()
    ended = run(dataclasses.replace(config, model_path=str(path)))
    assert ended.run_dir == stopped.run_dir
    rows = list(read_lines(ended.run_dir / "metrics.jsonl"))
    assert [row["env_steps"] for row in rows] == [12, 24, 36, 48, 60, 72]


def test_a_finished_run_that_is_resumed_has_nothing_to_do(config: Config) -> None:
    first = run(config)
    again = run(dataclasses.replace(config, model_path=str(first.last_checkpoint)))
    assert again.agent.env_steps == 72 and again.agent.policy_version == 6


def test_a_finished_run_goes_on_with_more_steps(config: Config) -> None:
    first = run(config)
    more = dataclasses.replace(config, total_steps=96, model_path=str(first.last_checkpoint))
    assert run(more).agent.policy_version == 8


def test_train_returns_the_exit_code(config: Config) -> None:
    assert train(dataclasses.replace(config, total_steps=12)) == 0
    assert checkpoints(config) == {"hmasd_sync_enhanced_final.pth"}


def test_the_precision_of_torchs_products_is_what_was_asked(config: Config) -> None:
    try:
        assert torch.get_float32_matmul_precision() == "highest"
        train(dataclasses.replace(config, matmul_precision="medium"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_policies_of_evaluations_are_kept_where_asked(config: Config) -> None:
    """Each is what its evaluation measured; training cannot go on from one, and says so."""
    config = dataclasses.replace(config, eval_interval=24, keep_policies=True)
    trainer = run(config)
    models = Path(config.output_dir) / "models"
    assert checkpoints(config) == {
        "hmasd_sync_enhanced_final.pth",
        *(checkpoint.policy_path(models, steps).name for steps in (24, 48, 72)),
    }
    rows = list(read_lines(trainer.run_dir / "evaluations.jsonl"))
    for steps in (24, 48, 72):
        content = checkpoint.load(checkpoint.policy_path(models, steps))
        agent = HMASDAgent(config, trainer.env)
        agent.played.load_state_dict(content["agent"]["played"])
        agent.gate.load_state_dict(content["agent"]["gate"])
        _, again = evaluate(agent)
        assert [{"env_steps": steps} | row for row in again] == [
            row for row in rows if row["env_steps"] == steps
        ]
    with pytest.raises(checkpoint.CheckpointError, match="use it with --eval-only"):
        run(dataclasses.replace(config, model_path=str(checkpoint.policy_path(models, 24))))


def test_a_policy_file_can_be_evaluated(config: Config) -> None:
    config = dataclasses.replace(config, eval_interval=36, keep_policies=True)
    run(config)
    path = checkpoint.policy_path(Path(config.output_dir) / "models", 36)
    alone = dataclasses.replace(config, model_path=str(path), eval_only=True)
    assert evaluate_checkpoint(alone) == 0


def test_control_without_asking_no_policy_is_kept(config: Config) -> None:
    config = dataclasses.replace(config, eval_interval=24)
    run(config)
    assert checkpoints(config) == {"hmasd_sync_enhanced_final.pth"}
