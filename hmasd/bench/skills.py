"""Where each pair (Z, z) leads: both levels of a policy are looked at from fresh starts.

All agents follow the same pair for one skill interval, with sampled actions. What is said of every
env follows from the observations at its end; where the env has cells (`position` [E, N, 2] of
whole numbers in its state), they say which cells the last quarter of the interval was spent in.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch

from hmasd.config import Config
from hmasd.envs.base import BatchedEnv
from hmasd.envs.registry import make_env
from hmasd.networks import HMASDNetworks
from hmasd.rollout.team import Generators, Team
from hmasd.types import EnvView, TensorView

STARTS = 50  # fresh starts of every pair
SEED = 0
ITEM = 4  # Alice_and_Bob's codes from here on are keys and diamonds
REACHED = 0.25  # share of its last quarter that a skill spends on an item it leads to


class Ends(NamedTuple):
    """What every start of every pair came to; P = n_Z n_z pairs, M starts."""

    obs: np.ndarray  # [P, M, N, O] when the interval, or the episode, was over
    guessed: np.ndarray  # [P, M, N] the skill z that q_d names there, given Z
    position: np.ndarray | None  # [P, M, N, 2]
    visited: np.ndarray | None  # [P, rows, columns] share of the last quarter in each cell


def look_at_skills(config: Config, networks: HMASDNetworks) -> dict[str, Any]:
    """Where the skills lead and how far apart, and which of them the coordinator chooses.

    Returns:
        For JSON: `pairs` (per (Z, z): mean end, distance to the next skill's, accuracy of q_d,
        visited cells), `separation`, `accuracy`, `items` and `chosen`; what an env cannot tell is
        None.
    """
    num_agent_skills = networks.coordinator.num_agent_skills  # actions, if low_level is "action"
    config = dataclasses.replace(config, device="cpu", num_agent_skills=num_agent_skills)
    count = config.num_team_skills * config.num_agent_skills * STARTS
    env = make_env(config.env, count, config.episode_length, config.env_options)
    view = env.reset(SEED)
    generators = Generators(*(torch.Generator().manual_seed(SEED + i) for i in range(2)))
    shape = (count, env.num_agents)
    team = Team(config, networks.coordinator, networks.actor, shape, generators)
    chosen = _choices(config, team, team.observe(view))
    items = _item_cells(config.env, view.state)
    ends = _follow(config, networks, team, env, view)
    env.close()
    return {
        "separation": separation(ends.obs),
        "accuracy": float((ends.guessed == _skill_of_pair(config)[:, None, None]).mean()),
        "pairs": _pairs(config, ends),
        "items": None if items is None or ends.visited is None else _reached(items, ends.visited),
        "chosen": chosen,
    }


def separation(obs: np.ndarray) -> float | None:
    """Share of the end observations' variance that the pair explains, 0 to 1: eta squared.

    Every feature counts alike; those that never vary do not count.

    Args:
        obs: [P, M, N, O].

    Returns:
        None if there is one pair only, or nothing varies.
    """
    pairs = obs.reshape(len(obs), -1, obs.shape[-1]).astype(float)  # [P, M * N, O]
    total = pairs.var(axis=(0, 1))
    varies = total > 1e-12
    if len(pairs) < 2 or not varies.any():
        return None
    between = pairs.mean(axis=1).var(axis=0)
    return float((between[varies] / total[varies]).mean())


def shares_on(cells: np.ndarray, visited: np.ndarray) -> np.ndarray:
    """Shares of time [P, K] that pairs spend on cells [K, 2], by their maps [P, rows, columns].

    A cell beyond the map of what was visited is one that nobody came near.
    """
    beyond = max(0, cells.max() + 1 - visited.shape[1])
    visited = np.pad(visited, ((0, 0), (0, beyond), (0, beyond)))
    shares: np.ndarray = visited[:, cells[:, 0], cells[:, 1]]
    return shares


def nearest_distances(ends: np.ndarray) -> np.ndarray:
    """Euclidean distance of each mean end [n, F] to the nearest other one: [n]; n at least 2."""
    apart = np.linalg.norm(ends[:, None] - ends[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest: np.ndarray = apart.min(axis=1)
    return nearest


def _skill_of_pair(config: Config) -> np.ndarray:
    """The z of each pair, [P]; pairs are ordered by Z, then z."""
    return np.tile(np.arange(config.num_agent_skills), config.num_team_skills)


def _choices(config: Config, team: Team, seen: TensorView) -> dict[str, Any]:
    """How often the coordinator chooses each Z, and each z under each Z, at fresh starts."""
    team.decide(seen)
    team_skill, skills = team.clock.team_skill.numpy(), team.clock.agent_skills.numpy()
    shares = np.bincount(team_skill, minlength=config.num_team_skills) / len(team_skill)
    given = [
        np.bincount(skills[team_skill == z].ravel(), minlength=config.num_agent_skills)
        for z in range(config.num_team_skills)
    ]
    return {
        "team": shares.tolist(),
        "agent_given_team": [(x / max(x.sum(), 1)).tolist() for x in given],
    }


@torch.no_grad()
def _follow(
    config: Config, networks: HMASDNetworks, team: Team, env: BatchedEnv, view: EnvView
) -> Ends:
    """Every start follows its pair until the interval or its episode is over."""
    pair = np.repeat(np.arange(config.num_team_skills * config.num_agent_skills), STARTS)
    team.clock.team_skill[:] = torch.from_numpy(pair // config.num_agent_skills)
    team.clock.agent_skills[:] = torch.from_numpy(pair % config.num_agent_skills)[:, None]
    running = np.ones(len(pair), dtype=bool)
    obs, position = view.obs.copy(), _position(env)
    farthest = 0 if position is None else int(position.max())  # starts lie all over the map
    seen = team.observe(view)
    cells: list[tuple[np.ndarray, np.ndarray]] = []
    interval = min(config.skill_interval, config.episode_length)
    for t in range(interval):
        step = env.step(team.act(seen).action.numpy())
        seen, ended = team.observe(step.view), step.terminated | step.truncated
        team.restart[:] = False
        obs[running] = step.final_obs[running]
        running &= ~ended
        if position is not None:
            position[running] = _position(env)[running]
            if t >= interval * 3 // 4:
                cells.append((pair[running], position[running]))
    last = team.observe(EnvView(obs, view.state))
    skills = team.clock.team_skill[:, None].expand(-1, env.num_agents)
    guessed = networks.individual_discriminator(last.obs, skills).argmax(-1).numpy()
    by_pair = (pair[-1] + 1, STARTS)
    return Ends(
        obs.reshape(*by_pair, *obs.shape[1:]),
        guessed.reshape(*by_pair, -1),
        None if position is None else position.reshape(*by_pair, *position.shape[1:]),
        _visited(cells, int(pair[-1]) + 1, farthest),
    )


def _position(env: BatchedEnv) -> Any:
    """The agents' cells [E, N, 2]; None if the env has none."""
    position = env.get_state().get("position")
    is_cells = position is not None and position.ndim == 3 and position.dtype.kind in "iu"
    return position if is_cells else None


def _visited(
    cells: list[tuple[np.ndarray, np.ndarray]], pairs: int, farthest: int
) -> np.ndarray | None:
    """Counts of (pair [R], position [R, N, 2]) as shares per pair: [P, rows, columns].

    The map reaches one beyond `farthest`, a row or column that somebody was in, or beyond these.
    """
    if not cells or not sum(len(pair) for pair, _ in cells):
        return None
    size = 2 + max(int(position.max(initial=farthest)) for _, position in cells)
    counts = np.zeros((pairs, size, size))
    for pair, position in cells:
        np.add.at(counts, (pair[:, None], position[..., 0], position[..., 1]), 1)
    return counts / np.maximum(counts.sum((1, 2), keepdims=True), 1)


def _pairs(config: Config, ends: Ends) -> list[dict[str, Any]]:
    """One row per pair; distances are between skills under the same Z, in cells if there are."""
    numbers = config.num_team_skills, config.num_agent_skills
    features = ends.obs if ends.position is None else ends.position
    means = features.reshape(*numbers, -1, features.shape[-1]).mean(2)  # [n_Z, n_z, F]
    rows = []
    for team_skill, skill in np.ndindex(*numbers):
        number = team_skill * numbers[1] + skill
        apart = None if numbers[1] < 2 else float(nearest_distances(means[team_skill])[skill])
        rows.append(
            {
                "team_skill": team_skill,
                "skill": skill,
                "end": means[team_skill, skill].round(3).tolist(),
                "nearest": apart,
                "accuracy": float((ends.guessed[number] == skill).mean()),
                "visited": None if ends.visited is None else ends.visited[number].round(3).tolist(),
            }
        )
    return rows


def _item_cells(env_name: str, state: np.ndarray) -> np.ndarray | None:
    """Cells of Alice_and_Bob's keys and diamonds [K, 2], from its maps [E, S]; None elsewhere."""
    if not env_name.startswith("alice_and_bob"):
        return None
    side = round(state.shape[1] ** 0.5)
    return np.argwhere((state >= ITEM).any(axis=0).reshape(side, side))


def _reached(items: np.ndarray, visited: np.ndarray) -> dict[str, Any]:
    """To how many of the items some pair leads, and the best pair's share of time on each."""
    best = shares_on(items, visited).max(axis=0)
    return {
        "cells": items.tolist(),
        "best_share": best.round(3).tolist(),
        "reached": int((best >= REACHED).sum()),
        "of": len(items),
    }
