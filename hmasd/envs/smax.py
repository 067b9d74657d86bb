"""SMAX, JaxMARL's battles, with the 0-1 reward and pictures: names `smax_3m`, `smax_2s3z`."""

from __future__ import annotations

from typing import Any, Literal

import jax
import numpy as np

from hmasd.envs.extras import import_extra
from hmasd.envs.jaxmarl_env import JaxMarlEnv, make_game
from hmasd.envs.smax_picture import Battle, draw_picture, targets


def make_smax(
    num_envs: int,
    episode_length: int,
    scenario: str,
    reward: Literal["win", "shaped"] = "win",
    **game_args: Any,
) -> JaxMarlEnv:
    """Make battles of SMAX against its scripted enemy; not StarCraft, but a game modelled on SMAC.

    A battle is won when all enemies are dead and an ally lives.

    Args:
        num_envs: E.
        episode_length: steps after which a battle is truncated; SMAX's own limit is 100.
        scenario: JaxMARL's name of the map, as "3m" or "2s3z".
        reward: "win": 1 for a win, else 0. "shaped": SMAX's own, the share of the enemies' health
            that each step took, and 1 for a win.
        game_args: SMAX's own settings.

    Raises:
        MissingPackageError: JaxMARL is not installed.
        ValueError: the scenario or a setting is unknown.
    """
    if reward not in ("win", "shaped"):
        raise ValueError(f"reward is {reward!r}, but must be 'win' or 'shaped'")
    smax = import_extra("jaxmarl.environments.smax", "jaxmarl")
    try:
        units = smax.map_name_to_scenario(scenario)
    except KeyError:
        raise ValueError(
            f"SMAX has no scenario {scenario!r}; 3m and 2s3z are two of them"
        ) from None
    made = make_game("HeuristicEnemySMAX", episode_length, {"scenario": units, **game_args})

    def outcome(state: Any, rewards: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        alive = state.state.unit_alive  # [allies and enemies]
        won = alive[: made.num_allies].any() & ~alive[made.num_allies :].any()
        return (won if reward == "win" else rewards[made.agents[0]]), won

    def draw(state: Any, played: int) -> np.ndarray:
        return draw_picture(_battle(made, state.state, played, episode_length))

    return JaxMarlEnv(made, num_envs, episode_length, outcome, draw)


def _battle(game: Any, state: Any, played: int, episode_length: int) -> Battle:
    """What is to be seen of SMAX's own state, as numpy arrays."""
    types = np.asarray(state.unit_types)
    target = targets(state.prev_attack_actions, game.num_allies, game.num_movement_actions)
    distance = np.linalg.norm(state.unit_positions - state.unit_positions[target], axis=-1)
    in_reach = distance < np.asarray(game.unit_type_attack_ranges)[types]
    return Battle(
        position=state.unit_positions,
        health=state.unit_health / np.asarray(game.unit_type_health)[types],
        alive=state.unit_alive,
        radius=np.asarray(game.unit_type_radiuses)[types],
        target=np.where(in_reach, target, -1),
        num_allies=game.num_allies,
        map_size=float(max(game.map_width, game.map_height)),
        played=played,
        episode_length=episode_length,
    )
