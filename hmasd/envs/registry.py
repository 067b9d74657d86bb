"""Names of the environments and how to make them; a new adapter is one row of `_MAKERS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # naming the envs, for --help, must not import torch
    from hmasd.envs.base import BatchedEnv


def _make_alice_and_bob(
    size: int, num_pairs: int, num_envs: int, episode_length: int
) -> BatchedEnv:
    """The guide's game; imported here so that naming the envs does not compile their kernels."""
    from hmasd.envs.alice_and_bob import AliceAndBob

    return AliceAndBob(num_envs, episode_length, size=size, num_pairs=num_pairs)


def _make_simple_spread(num_agents: int, num_envs: int, episode_length: int) -> BatchedEnv:
    """The benchmark's game, for any number of agents."""
    from hmasd.envs.simple_spread import SimpleSpread

    return SimpleSpread(num_envs, episode_length, num_agents)


_MAKERS: dict[str, Callable[[int, int], BatchedEnv]] = {
    "alice_and_bob": partial(_make_alice_and_bob, 8, 2),  # the guide's; its family follows
    **{
        f"alice_and_bob_{size}x{size}_{pairs}": partial(_make_alice_and_bob, size, pairs)
        for size in (8, 12, 16)
        for pairs in (2, 3, 4)
        if (size, pairs) != (8, 2)
    },
    "simple_spread": partial(_make_simple_spread, 3),
    **{f"simple_spread_{n}": partial(_make_simple_spread, n) for n in (2, 4, 8, 16, 32, 64)},
}


def env_names() -> list[str]:
    """All names that `make_env` knows, sorted."""
    return sorted(_MAKERS)


def make_env(name: str, num_envs: int, episode_length: int) -> BatchedEnv:
    """Make a batch of environments.

    Args:
        name: one of `env_names()`.
        num_envs: games that step together, at least 1.
        episode_length: steps after which an episode is truncated, at least 1.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _MAKERS:
        near = difflib.get_close_matches(name, _MAKERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no env {name!r}, the envs are {', '.join(env_names())}{hint}")
    return _MAKERS[name](num_envs, episode_length)
