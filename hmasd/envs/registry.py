"""Names of the environments and how to make them; a new adapter is one row of `_MAKERS`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hmasd.envs.extras import import_extra

if TYPE_CHECKING:  # naming the envs, for --help, must not import torch
    from hmasd.envs.base import BatchedEnv
    from hmasd.types import EnvOptions, EnvShare, EnvView


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


def _make_smax(scenario: str, num_envs: int, episode_length: int, **settings: Any) -> BatchedEnv:
    """JaxMARL's battles with the 0-1 reward; JAX is imported only where they are played."""
    import_extra("jaxmarl", "jaxmarl")
    from hmasd.envs.smax import make_smax

    return make_smax(num_envs, episode_length, scenario, **settings)


_MAKERS: dict[str, Callable[..., BatchedEnv]] = {
    "alice_and_bob": partial(_make_alice_and_bob, 8, 2),  # the guide's; its family follows
    **{
        f"alice_and_bob_{size}x{size}_{pairs}": partial(_make_alice_and_bob, size, pairs)
        for size in (8, 12, 16)
        for pairs in (2, 3, 4)
        if (size, pairs) != (8, 2)
    },
    "simple_spread": partial(_make_simple_spread, 3),
    **{f"simple_spread_{n}": partial(_make_simple_spread, n) for n in (2, 4, 8, 16, 32, 64)},
    "smax_3m": partial(_make_smax, "3m"),
    "smax_2s3z": partial(_make_smax, "2s3z"),
}


def env_names() -> list[str]:
    """All names that `make_env` knows, sorted."""
    return sorted(_MAKERS)


def env_problem(name: str, options: EnvOptions) -> str | None:
    """What keeps an env from being made, found before anything runs; None if nothing is known."""
    from hmasd.envs.user_env import (
        find_factory,
        is_spec,
        parse_env_args,
        refuse_workers,
        steps_as_a_batch,
    )

    try:
        args = parse_env_args(options.env_args)
        if not is_spec(name):
            _bound(name, 1, 1, args)
        if not is_spec(name) or steps_as_a_batch(find_factory(name)):
            refuse_workers(name, options)
    except ValueError as error:
        return str(error)
    return None


def make_env(
    name: str, num_envs: int, episode_length: int, options: EnvOptions | None = None
) -> BatchedEnv:
    """Make a batch of environments.

    Args:
        name: one of `env_names()`, or where to find a user's own: see `hmasd.envs.user_env`.
        num_envs: games that step together, at least 1.
        episode_length: steps after which an episode is truncated, at least 1.
        options: how to make it; None: the defaults.

    Raises:
        ValueError: the name is unknown, or the env cannot be made.
        EnvError: the env cannot be reset.
    """
    from hmasd.envs.user_env import is_spec, make_user_env, parse_env_args, refuse_workers
    from hmasd.types import EnvOptions

    options = options or EnvOptions()
    if is_spec(name):
        return make_user_env(name, num_envs, episode_length, options)
    refuse_workers(name, options)
    return _bound(name, num_envs, episode_length, parse_env_args(options.env_args))()


def start_envs(env: BatchedEnv, seed: int, share: EnvShare) -> EnvView:
    """Start a rank's share of a run's envs.

    They play what they would beside all others in one process, if the batch has a `first_env`.
    Otherwise each rank's batch is given a seed of its own.
    """
    if hasattr(env, "first_env"):
        env.first_env = share.first
    elif share.first > 0:
        words = np.random.SeedSequence((seed, share.first)).generate_state(1, np.uint32)
        seed = int(words[0]) >> 1
    return env.reset(seed)


def _bound(
    name: str, num_envs: int, episode_length: int, args: dict[str, Any]
) -> Callable[[], BatchedEnv]:
    """The maker of a known name with its arguments.

    Raises:
        ValueError: the name or an argument is unknown.
    """
    if name not in _MAKERS:
        near = difflib.get_close_matches(name, _MAKERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"env = {name!r} does not exist{hint}; the envs are {', '.join(env_names())}; "
            f"one of your own is my_module:make_env"
        )
    maker = _MAKERS[name]
    try:
        inspect.signature(maker).bind(num_envs, episode_length, **args)
    except TypeError as error:
        raise ValueError(f"env = {name!r} cannot be made with env_args {args}: {error}") from error
    return partial(maker, num_envs, episode_length, **args)
