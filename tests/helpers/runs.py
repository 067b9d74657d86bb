"""Tiny runs: configurations, rounds played by hand, runs that stop where told, comparisons."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from hmasd import checkpoint
from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.telemetry import run_folder, writers
from hmasd.telemetry.jsonl import read_lines
from hmasd.training.loop import Trainer
from hmasd.types import Acting, EnvStep, EnvView, TensorView
from tests.helpers.envs import ContinuousPoint, Counter, MaskedAgents, ToyEnv

SMALL_ENVS = {
    "counter": lambda num_envs, length: Counter(num_envs, 2, length, (0.1, 0.1)),
    "point": lambda num_envs, length: ContinuousPoint(num_envs, 2, length),
    "masked": lambda num_envs, length: MaskedAgents(num_envs, 3, length),
}


def register_small_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry make the small envs, and the run folder ask no git and wait for no clock."""
    for name, maker in SMALL_ENVS.items():
        monkeypatch.setitem(registry._MAKERS, name, maker)
    monkeypatch.setattr(run_folder, "versions", dict)
    monkeypatch.setattr(writers, "_wait_for_a_later_name", lambda folder: None)


def tiny_config(**changes: Any) -> Config:
    """Rounds of 4 steps in 3 envs; intervals, episodes and rounds all end at different times."""
    tiny = Config(
        env="counter",
        num_envs=3,
        batch_size=12,
        total_steps=72,
        episode_length=7,
        skill_interval=3,
        num_team_skills=2,
        num_agent_skills=3,
        hidden_size=8,
        coordinator_epochs=1,
        discoverer_epochs=2,
        discriminator_epochs=1,
        discriminator_rounds=2,
        high_level_batch_size=7,
        chunk_length=2,
        learning_rate=3e-3,
        extrinsic_coef=0.5,
        eval_interval=0,
        eval_episodes=3,
        checkpoint_interval=0,
    )
    return dataclasses.replace(tiny, **changes)


# --- rounds played by hand ------------------------------------------------------------------------


class Played(NamedTuple):
    """One lock-step as it was played."""

    view: TensorView
    acting: Acting
    step: EnvStep
    coordinator_version: int


def make_agent(config: Config) -> tuple[HMASDAgent, ToyEnv, EnvView]:
    """An agent, its env, and the env's first view."""
    env = registry.make_env(config.env, config.num_envs, config.episode_length)
    return HMASDAgent(config, env), env, env.reset(config.seed)


def play(agent: HMASDAgent, env: ToyEnv, view: EnvView, steps: int) -> tuple[list[Played], EnvView]:
    """Act and store for some lock-steps; returns them, skills copied, and the last view."""
    played = []
    for _ in range(steps):
        seen = agent.observe(view)
        acting = agent.act(seen)
        acting = acting._replace(
            team_skill=acting.team_skill.clone(), agent_skills=acting.agent_skills.clone()
        )
        step = env.step(acting.action.numpy())
        assert agent.store_transition(seen, acting, step)
        played.append(Played(seen, acting, step, agent.coordinator_version))
        view = step.view
    return played, view


def play_rounds(
    agent: HMASDAgent, env: ToyEnv, view: EnvView, rounds: int
) -> tuple[list[Played], EnvView]:
    """Collect and update; returns all lock-steps and the last view."""
    played = []
    for _ in range(rounds):
        some, view = play(agent, env, view, agent.config.rollout_length)
        played += some
        agent.sync_update()
    return played, view


# --- whole runs -----------------------------------------------------------------------------------


class Cut(NamedTuple):
    """Where a run is stopped: after so many lock-steps in all, before or after a due update."""

    lock_steps: int
    after_update: bool = False


class Result(NamedTuple):
    """What a run left behind."""

    content: dict[str, Any]  # of its last checkpoint
    rows: list[dict[str, Any]]  # of metrics.jsonl, without what clocks measured
    evaluations: list[dict[str, Any]]


class StuckError(AssertionError):
    """A run plays on and on."""


def run(config: Config, cut: Cut | None = None) -> Trainer:
    """Train as the program does, to the end or to a stop signal that comes at the cut."""
    trainer = Trainer(config)
    if cut is not None:
        _stop_at(trainer, cut)
    _limit(trainer, 3 * config.total_steps // config.num_envs)
    code = trainer.run()
    assert code == (0 if cut is None else 143)
    return trainer


def _stop_at(trainer: Trainer, cut: Cut) -> None:
    """Let SIGTERM "arrive" inside the env step, or inside the update, that the cut names."""
    play_step, update = trainer.env.step, trainer.agent.sync_update

    def step(action: np.ndarray) -> EnvStep:
        taken = trainer.agent.env_steps // trainer.config.num_envs + 1
        if taken == cut.lock_steps and not cut.after_update:
            trainer.stop.signal = signal.SIGTERM
        return play_step(action)

    def sync_update() -> dict[str, float]:
        taken = trainer.agent.env_steps // trainer.config.num_envs
        if taken == cut.lock_steps and cut.after_update:
            trainer.stop.signal = signal.SIGTERM
        return update()

    trainer.env.step, trainer.agent.sync_update = step, sync_update


def _limit(trainer: Trainer, lock_steps: int) -> None:
    """Turn an endless run into an error."""
    play_step, left = trainer.env.step, iter(range(lock_steps))

    def step(action: np.ndarray) -> EnvStep:
        if next(left, None) is None:
            raise StuckError("the run does not end")
        return play_step(action)

    trainer.env.step = step


def result(trainer: Trainer) -> Result:
    """Read back what a run wrote."""
    content = checkpoint.load(Path(trainer.last_checkpoint or ""))
    del content["config"], content["run_name"]
    rows = [
        {tag: x for tag, x in row.items() if not is_time(tag)}
        for row in read_lines(trainer.run_dir / writers.METRICS_FILE)
    ]
    return Result(content, rows, list(read_lines(trainer.run_dir / writers.EVALUATIONS_FILE)))


def is_time(tag: str) -> bool:
    """Whether a clock measured this metric."""
    return tag.startswith("time/") or tag in ("Sync/CollectionTime", "Sync/UpdateTime")


def resume(config: Config, stopped: Path, target: Path, steps: int | None = None) -> Trainer:
    """Copy a run's folder and run it to its end from its only checkpoint, or from one of many."""
    shutil.copytree(stopped, target, ignore=shutil.ignore_patterns("tf-logs"))
    (path,) = (target / "models").glob("*.pth" if steps is None else f"*_{steps}.pth")
    return run(dataclasses.replace(config, output_dir=str(target), model_path=str(path)))


# --- comparing ------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All leaves of nested dicts, lists and tuples; an empty one is a leaf itself."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield path, value
        return
    if not value:
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are equal to the last bit (NaN equals NaN)."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.numpy().tobytes() == other.numpy().tobytes()
        )
    return type(one) is type(other) and bool(one == other)


def differences(one: Any, other: Any) -> list[str]:
    """Paths at which two nested values differ."""
    left, right = dict(leaves(one)), dict(leaves(other))
    paths = list(left) + [path for path in right if path not in left]
    return [
        ".".join(map(str, path))
        for path in paths
        if path not in left or path not in right or not same(left[path], right[path])
    ]


def assert_same_result(one: Result, other: Result) -> None:
    """Every parameter, optimizer tensor, random state, stored row and logged number is equal."""
    changed = differences(one.content, other.content)
    assert changed == [], changed[:10]
    assert [json.dumps(row) for row in one.rows] == [json.dumps(row) for row in other.rows]
    assert one.evaluations == other.evaluations


def snapshot(agent: HMASDAgent) -> dict[str, Any]:
    """A copy of all that the agent is."""
    return map_tensors(agent.state_dict(), Tensor.clone)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_tensors(item, change) for item in value]
    return value


def is_finite(value: Any) -> bool:
    """Whether all floats among the leaves are finite."""
    return all(
        bool(torch.isfinite(x).all()) for _, x in leaves(value) if isinstance(x, torch.Tensor)
    )
