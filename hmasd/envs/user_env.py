"""Any environment by what --env says: where its factory is, and which adapter what it makes needs.

* `my_package.my_module:make_env`: a callable of the current folder or of an installed package
* `gym:lbforaging:Foraging-8x8-2p-2f-coop-v3`: gymnasium's id, with the module that registers it
* `pettingzoo:mpe2.simple_spread_v3`: a module of PettingZoo's kind, with `parallel_env` or `env`
* `jaxmarl:overcooked`: a game of JaxMARL, `vmas:navigation`: a scenario of VMAS; both batched

A factory may return a PettingZoo env, a gymnasium env of several agents, a `SingleEnv`, or, if it
takes `num_envs`, a `BatchedEnv`; one that takes `team_reward` is told that setting, too.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import yaml

from hmasd.envs.base import BatchedEnv
from hmasd.envs.env_slice import RAISED, told
from hmasd.envs.extras import install_line
from hmasd.envs.gymnasium_team import GymnasiumTeam, is_gymnasium_team
from hmasd.envs.pettingzoo_parallel import PettingZooTeam, is_pettingzoo
from hmasd.envs.single import SingleEnv
from hmasd.envs.vector import make_batch
from hmasd.envs.workers import WorkerSettings, make_worker_batch
from hmasd.types import EnvOptions

_BATCHED = {  # what stands before the colon: the adapter, its factory, the argument for the rest
    "jaxmarl": ("hmasd.envs.jaxmarl_env", "make_jaxmarl", "game"),
    "vmas": ("hmasd.envs.vmas_env", "make_vmas", "scenario"),
}
_EXTRAS = {  # package: the extra that brings it
    "lbforaging": "lbforaging",
    "rware": "rware",
    "mpe2": "pettingzoo",
    "pettingzoo": "pettingzoo",
    "pygame": "pettingzoo",
    "pymunk": "pettingzoo",
    "Box2D": "pettingzoo",
    "jax": "jaxmarl",
    "jaxmarl": "jaxmarl",
    "vmas": "vmas",
}
_SINGLE = ("num_agents", "obs_size", "state_size", "action_space", "reset", "step")
_BATCH = ("num_envs", *_SINGLE, "episode_length", "get_state", "set_state")
ACCEPTED = (
    "a PettingZoo ParallelEnv or AECEnv, a gymnasium env whose observation_space and action_space "
    "are a Tuple or a list of one per agent, a SingleEnv (hmasd/envs/single.py), or, from a "
    "factory that takes num_envs, a BatchedEnv (hmasd/envs/base.py)"
)


def is_spec(name: str) -> bool:
    """Whether an env's name says where its factory is."""
    return ":" in name


def find_factory(spec: str) -> Callable[..., Any]:
    """The callable that makes the env, imported; the current folder counts as a place of modules.

    Raises:
        ValueError: the module or the attribute is missing, or importing it failed; says what to do.
    """
    head, _, rest = spec.partition(":")
    if head == "gym":
        import gymnasium

        module, _, _ = rest.rpartition(":")
        if module:
            _import(module, spec)
        return partial(gymnasium.make, rest, disable_env_checker=True)
    if head == "pettingzoo":
        module = _import(rest, spec)
        return _attribute(module, "parallel_env" if hasattr(module, "parallel_env") else "env")
    if head in _BATCHED:
        module_name, maker, argument = _BATCHED[head]
        return partial(_attribute(_import(module_name, spec), maker), **{argument: rest})
    return _attribute(_import(head, spec), rest)


def parse_env_args(text: str) -> dict[str, Any]:
    """The factory's keyword arguments, from a YAML or JSON mapping such as '{num_agents: 3}'.

    Raises:
        ValueError: it is no mapping of names.
    """
    try:
        args = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise ValueError(f"env_args = {text!r} is not YAML: {error}") from error
    if not isinstance(args, dict) or not all(isinstance(name, str) for name in args):
        raise ValueError(
            f"env_args = {text!r} must be a mapping of names, such as '{{num_agents: 3}}'"
        )
    return args


def make_single(spec: str, options: EnvOptions) -> SingleEnv:
    """One game of a spec whose factory makes single games; for batches and for workers.

    Raises:
        ValueError: the factory is missing, failed, or made something else.
    """
    made = _adapt(_call(find_factory(spec), spec, options), spec, options)
    if hasattr(made, "num_envs"):
        raise ValueError(f"{spec} made a batch of envs, not a single one")
    return made


def make_worker_game(spec: str, env_args: str, team_reward: str) -> SingleEnv:
    """`make_single` for a worker, to which options travel as JSON."""
    return make_single(spec, EnvOptions(env_args, team_reward))


def steps_as_a_batch(factory: Callable[..., Any]) -> bool:
    """Whether a factory makes all envs of a batch by itself."""
    return "num_envs" in _parameters(factory)


def refuse_workers(name: str, options: EnvOptions) -> None:
    """Workers play single games; a batch would only be slower in pieces.

    Raises:
        ValueError: the options of a batched env ask for workers.
    """
    if options.workers > 0:
        raise ValueError(
            f"env_workers = {options.workers}: {name} steps all its envs as one batch, to which "
            f"worker processes would only add waiting; leave env_workers at 0"
        )


def make_user_env(spec: str, num_envs: int, episode_length: int, options: EnvOptions) -> BatchedEnv:
    """A batch of the spec's games, stepped one by one, here or in workers, or by the factory's.

    Raises:
        ValueError: the factory is missing, failed, or made what no adapter takes.
        EnvError: the game cannot be reset.
    """
    factory = find_factory(spec)
    sizes = {"num_envs": num_envs, "episode_length": episode_length}
    if steps_as_a_batch(factory):
        refuse_workers(spec, options)
        taken, settings = _parameters(factory), sizes | {"team_reward": options.team_reward}
        given = {name: value for name, value in settings.items() if name in taken}
        return _checked_batch(_call(factory, spec, options, **given), spec, sizes)
    if options.workers > 0:
        return make_worker_batch(
            f"{__name__}:{make_worker_game.__name__}",
            {"spec": spec, "env_args": options.env_args, "team_reward": options.team_reward},
            num_envs,
            episode_length,
            WorkerSettings(options.workers, options.timeout, options.restarts),
        )
    made = [_adapt(_call(factory, spec, options), spec, options)]
    if hasattr(made[0], "num_envs"):
        return _checked_batch(made[0], spec, sizes)
    return make_batch(
        lambda: made.pop() if made else make_single(spec, options), num_envs, episode_length
    )


def _import(name: str, spec: str) -> Any:
    """The module; the message tells a missing one from one that fails."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        package = missing.partition(".")[0]
        remedy = f"looked in {folder} and among the installed packages"
        if missing != package and package in sys.modules:
            remedy = f"{package} is installed, but has others{_nearest_module(missing)}"
        elif package in _EXTRAS:
            remedy = install_line(_EXTRAS[package])
        raise ValueError(f"env = {spec!r}: there is no module {missing!r}: {remedy}") from error
    except RAISED as error:
        raise ValueError(f"env = {spec!r}: importing {name} raised {told(error)}") from error


def _nearest_module(missing: str) -> str:
    """The module of a name like the missing one beside which it should be, in words, if any."""
    parent, _, name = missing.rpartition(".")
    folders = getattr(sys.modules[parent], "__path__", [])  # only a package has them
    beside = [found.name for found in pkgutil.iter_modules(folders)]
    near = difflib.get_close_matches(name, beside, n=1)
    return f"; did you mean {parent}.{near[0]}?" if near else ""


def _attribute(module: Any, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    known = [
        own
        for own, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]
    what = "is not callable" if hasattr(module, name) else "does not exist"
    raise ValueError(
        f"{module.__name__}:{name} {what}; name a function or class that makes the env, one of: "
        f"{', '.join(known) or 'there is none'}"
    )


def _parameters(factory: Callable[..., Any]) -> Collection[str]:
    """Names of the factory's parameters; none where it does not tell."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some that are written in C
        return ()


def _call(factory: Callable[..., Any], spec: str, options: EnvOptions, **given: Any) -> Any:
    """What the factory makes of its arguments."""
    args = parse_env_args(options.env_args)
    try:
        return factory(**{**given, **args})
    except RAISED as error:
        raise ValueError(f"env = {spec!r}: making it with {args} raised {told(error)}") from error


def _adapt(made: Any, spec: str, options: EnvOptions) -> Any:
    """The env behind the adapter it needs: a `SingleEnv`, or the batch that it is."""
    if all(hasattr(made, name) for name in _SINGLE):
        return made
    adapters = ((is_pettingzoo, PettingZooTeam), (is_gymnasium_team, GymnasiumTeam))
    for fits, adapter in adapters:
        if fits(made):
            try:
                return adapter(made, options.team_reward)
            except RAISED as error:
                raise ValueError(
                    f"env = {spec!r} made a {type(made).__name__} that cannot be played: "
                    f"{told(error)}"
                ) from error
    spaces = [getattr(made, name, "missing") for name in ("observation_space", "action_space")]
    raise ValueError(
        f"env = {spec!r} made a {type(made).__name__} (observation_space {spaces[0]}, "
        f"action_space {spaces[1]}), but it must make {ACCEPTED}"
    )


def _checked_batch(made: Any, spec: str, sizes: dict[str, int]) -> BatchedEnv:
    """The batch, if it has what a `BatchedEnv` has and the size that was asked for."""
    missing = [name for name in _BATCH if not hasattr(made, name)]
    if missing:
        raise ValueError(
            f"env = {spec!r} made a {type(made).__name__} without {', '.join(missing)}; a factory "
            f"that takes num_envs must make a BatchedEnv (hmasd/envs/base.py)"
        )
    for name, wanted in sizes.items():
        if getattr(made, name) != wanted:
            raise ValueError(
                f"env = {spec!r} made a batch whose {name} is {getattr(made, name)}, but the "
                f"setting {name} is {wanted}; let the factory take {name}, or change the setting"
            )
    return made
