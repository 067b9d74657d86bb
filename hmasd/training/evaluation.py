"""Evaluation: whole episodes with a frozen policy, on envs and random numbers of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hmasd import checkpoint
from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.registry import make_env
from hmasd.networks import HMASDNetworks
from hmasd.rollout.episodes import Episode, EpisodeTracker, summarize
from hmasd.rollout.team import Generators, Team
from hmasd.settings import stored_config
from hmasd.telemetry.run_folder import make_run_folder

MODES = ("greedy", "stochastic")
SEED_OFFSET = 1_000_003  # keeps evaluation's seeds apart from those of training runs


def play_episodes(
    config: Config, networks: HMASDNetworks, mode: str, num_episodes: int, seed: int
) -> list[Episode]:
    """Play `num_episodes` episodes, each in an env of its own, all from fresh starts.

    Args:
        config: settings of the run.
        networks: of which the coordinator and the actor play.
        mode: "greedy" (most likely choices at both levels; skills that are chosen by chance stay
            so) or "stochastic".
        num_episodes: how many.
        seed: decides starts and choices; the same seed gives the same episodes.
    """
    device = next(networks.actor.parameters()).device
    generators = Generators.of_seed(seed, device)
    if mode == "greedy":
        generators = generators.greedy(config)
    tracker = EpisodeTracker(num_episodes)
    first: dict[int, Episode] = {}
    # Made like training's, so that a game that hangs or dies is found here, too.
    made = make_env(config.env, num_episodes, config.episode_length, config.env_options)
    with contextlib.closing(made) as env:
        shape = (num_episodes, env.num_agents)
        team = Team(config, networks.coordinator, networks.actor, shape, generators)
        view = env.reset(seed)
        while len(first) < num_episodes:
            step = env.step(team.play(view))
            for episode in tracker.add(step):
                first.setdefault(episode.env, episode)
            team.advance(torch.from_numpy(step.terminated | step.truncated))
            view = step.view
    return [first[e] for e in range(num_episodes)]


def evaluate(agent: HMASDAgent) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Greedy and stochastic play of the agent's policy; nothing of training is touched.

    Returns:
        Metrics `eval/{mode}_{success, return, length}`, and one row per episode.
    """
    config = agent.config
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for mode in MODES:
        episodes = play_episodes(
            config, agent.played, mode, config.eval_episodes, config.seed + SEED_OFFSET
        )
        metrics |= summarize(episodes, f"eval/{mode}_")
        rows += [
            {
                "mode": mode,
                "episode": episode.env,
                "success": episode.success,
                "return": episode.episode_return,
                "length": episode.length,
                "policy_version": agent.policy_version,
            }
            for episode in episodes
        ]
    return metrics, rows


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]  # `eval/...`, and how long it took
    rows: list[dict[str, Any]]  # one per episode


def evaluate_agent(agent: HMASDAgent) -> Evaluation:
    """`evaluate`, and the seconds that it took."""
    start = time.perf_counter()
    metrics, rows = evaluate(agent)
    return Evaluation(metrics | {"time/evaluation_seconds": time.perf_counter() - start}, rows)


def save_policy(path: Path, agent: HMASDAgent) -> None:
    """Write what playing needs, a small part of a checkpoint.

    Raises:
        CheckpointError: the file cannot be written.
    """
    played = {
        "played": agent.played.state_dict(),
        "gate": agent.gate.state_dict(),
        "env_steps": agent.env_steps,
        "num_agents": agent.num_agents,
    }
    checkpoint.save(path, {"agent": played, "config": dataclasses.asdict(agent.config)})


def evaluate_policy(path: Path) -> Evaluation:
    """Evaluate a policy file under the settings that it was saved with, on one thread.

    The numbers are those of `evaluate` with the agent that it was saved from.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit its own settings.
        ConfigError: it was saved with a setting that is unknown here.
    """
    content = checkpoint.load(path)
    config = stored_config(content["config"], path)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(config.matmul_precision)
    return evaluate_agent(playing_agent(config, content))


def playing_agent(config: Config, content: Mapping[str, Any]) -> HMASDAgent:
    """An agent with the networks that play, and the version, of a checkpoint or policy file.

    Raises:
        CheckpointError: the networks are of another configuration.
    """
    # One env tells the sizes; its workers, if it has any, are not needed for more.
    made = make_env(config.env, 1, config.episode_length, config.env_options)
    with contextlib.closing(made) as env:
        agent = HMASDAgent(config, env)
    settings = dataclasses.asdict(config)
    state = content["agent"]["played"]
    checkpoint.load_module("networks", agent.played, state, content.get("config"), settings)
    agent.gate.load_state_dict(content["agent"]["gate"])
    return agent


def evaluate_checkpoint(config: Config) -> int:
    """`--eval-only`: evaluate --model-path, show a table, write JSON; returns the exit code.

    Raises:
        CheckpointError: the file is missing, damaged, or of another configuration.
    """
    assert config.model_path is not None, "validate() asks for --model-path with --eval-only"
    content = checkpoint.load(Path(config.model_path))
    agent = playing_agent(config, content)
    metrics, rows = evaluate(agent)
    report = {
        "model_path": config.model_path,
        "env_steps": content["agent"]["env_steps"],
        "policy_version": agent.policy_version,
        "config": dataclasses.asdict(config),
        "summary": metrics,
        "episodes": rows,
    }
    path = make_run_folder(config) / "evaluation.json"
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    _show(config, rows, path)
    return 0


def _show(config: Config, rows: list[dict[str, Any]], path: Path) -> None:
    """Table of mean and standard deviation per way of playing, and where the episodes are."""
    table = Table(title=f"{config.model_path} on {config.env}, {config.eval_episodes} episodes")
    for column in ("play", "success", "return", "length"):
        table.add_column(column, justify="right")
    for mode in MODES:
        chosen = [row for row in rows if row["mode"] == mode]
        cells = [f"{np.mean([row['success'] for row in chosen]):.1%}"]
        for name in ("return", "length"):
            values = [row[name] for row in chosen]
            cells.append(f"{np.mean(values):.2f} ± {np.std(values):.2f}")
        table.add_row(mode, *cells)
    console = Console()
    console.print(table)
    console.print(f"every episode: {path}", soft_wrap=True)
