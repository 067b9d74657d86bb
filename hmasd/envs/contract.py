"""What every environment must keep to, checked by random play; for new adapters and for tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from hmasd.envs.base import BatchedEnv
from hmasd.envs.env_slice import RAISED, EnvError, told
from hmasd.types import EnvStep, EnvView

Array = np.ndarray
_RESET_STEP = 0  # a reset's view is "step 0" in the messages


class _Faults:
    """The first fault of each kind, in words."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, kind: str, message: str) -> None:
        """Keep the message unless this kind of fault is known already."""
        self._found.setdefault(kind, message)

    def messages(self) -> list[str]:
        """All messages, in the order in which they were found."""
        return list(self._found.values())


class _RaisedError(Exception):
    """The env raised where it should not; nothing more can be played."""


def check_env(env: BatchedEnv, steps: int, seed: int) -> list[str]:
    """Play at random and list everything that breaks the contract of `BatchedEnv`.

    Nothing raised; shapes and types; finite numbers; masks that allow something; an agent alive
    while an episode goes on; final observations that equal the view where an episode goes on and
    are not the next episode's where it ends; terminated and truncated never both; no episode longer
    than `episode_length`; actions not written to; the same seed gives the same game; `set_state`
    goes on exactly where `get_state` was called.

    Args:
        env: the envs to check; they are reset and played.
        steps: lock-steps to play (in each of three runs), at least 2.
        seed: of the envs and of the actions.

    Returns:
        One message per kind of fault, with env, step, field and remedy; empty if all is well.
    """
    faults = _Faults()
    try:
        _check_all(env, steps, seed, faults)
    except _RaisedError as error:
        faults.add("raised", str(error))
    return faults.messages()


def _check_all(env: BatchedEnv, steps: int, seed: int, faults: _Faults) -> None:
    """Play three times: as it comes, again from the seed, again from the middle."""
    view = _reset(env, seed)
    if not _check_view(env, view, _RESET_STEP, faults) or faults.messages():
        return
    actions, played, saved = _play(env, view, steps, seed, faults)
    if len(played) == steps:
        _check_ends(played, faults)
        if _check_replay(env, view, actions, played, seed, faults):
            _check_restore(env, saved, actions, played, faults)


def _reset(env: BatchedEnv, seed: int) -> EnvView:
    return _copy(_called(f"step {_RESET_STEP}: reset", env.reset, seed))


def _step(env: BatchedEnv, action: Array, number: int) -> EnvStep:
    return _copy(_called(f"step {number}: step", env.step, action))


def _called(what: str, call: Callable[..., Any], *args: Any) -> Any:
    """What the env returns.

    Raises:
        _RaisedError: it raised; tells what and where.
    """
    try:
        return call(*args)
    except EnvError as error:  # tells all itself
        raise _RaisedError(str(error)) from error
    except RAISED as error:
        raise _RaisedError(f"{what} raised {told(error)}") from error


def random_action(env: BatchedEnv, view: EnvView, rng: np.random.Generator) -> Array:
    """Uniform actions that the masks allow: [E, N] int64, or [E, N, A] float32."""
    shape = (env.num_envs, env.num_agents)
    space = env.action_space
    if isinstance(space, Box):
        low, high = np.clip(space.low, -10.0, 10.0), np.clip(space.high, -10.0, 10.0)
        return rng.uniform(low, high, size=(*shape, *space.shape)).astype(np.float32)
    if not isinstance(space, Discrete):
        raise ValueError(f"action_space is {space}, but must be a gymnasium Discrete or Box")
    score = rng.random((*shape, int(space.n)))
    if view.action_mask is not None:
        score = np.where(view.action_mask, score, -1.0)
    return score.argmax(axis=-1)


def _copy(data: Any) -> Any:
    """A copy of an `EnvView` or `EnvStep` that the env can no longer change."""
    if isinstance(data, (EnvView, EnvStep)):
        return type(data)(*(_copy(field) for field in data))
    return data.copy() if isinstance(data, np.ndarray) else data


def _play(
    env: BatchedEnv, view: EnvView, steps: int, seed: int, faults: _Faults
) -> tuple[list[Array], list[EnvStep], dict[str, Array]]:
    """Play and check step by step; stops at a fault of shape, which would upset later checks."""
    rng = np.random.default_rng(seed)
    clock = np.zeros(env.num_envs, dtype=np.int64)
    actions: list[Array] = []
    played: list[EnvStep] = []
    saved: dict[str, Array] = {}
    for number in range(1, steps + 1):
        if number == steps // 2 + 1:
            saved = _called(f"step {number - 1}: get_state", env.get_state)
        actions.append(random_action(env, view, rng))
        given = actions[-1].copy()
        step = _step(env, given, number)
        if (given != actions[-1]).any():
            faults.add("action", f"step {number}: step() wrote into its actions; copy them first")
        if not _check_step(env, step, number, faults):
            break
        _check_length(env, step, clock, number, faults)
        played.append(step)
        view = step.view
    return actions, played, saved


def _check_array(
    field: str, array: Array, shape: tuple[int, ...], dtype: str, number: int, faults: _Faults
) -> bool:
    """Whether shape and type are right; numbers that are not finite are noted, too."""
    if not isinstance(array, np.ndarray):
        faults.add(
            f"shape of {field}",
            f"step {number}: {field} is a {type(array).__name__}, but must be an array: {dtype} of "
            f"{shape}",
        )
        return False
    if array.shape != shape or array.dtype != np.dtype(dtype):
        faults.add(
            f"shape of {field}",
            f"step {number}: {field} is {array.dtype} of shape {array.shape}, but must be {dtype} "
            f"of {shape}: see the shapes in hmasd/types.py",
        )
        return False
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        faults.add(
            f"finite {field}",
            f"env {index[0]}, step {number}: {field}{list(index)} is {array[index]}; "
            f"only finite numbers can be learned from",
        )
    return True


def _check_view(env: BatchedEnv, view: EnvView, number: int, faults: _Faults) -> bool:
    """Check one view; whether its shapes and types are right."""
    if not isinstance(view, EnvView):
        faults.add("view", f"step {number}: the view is a {type(view).__name__}, not an EnvView")
        return False
    envs, agents = env.num_envs, env.num_agents
    right = _check_array("obs", view.obs, (envs, agents, env.obs_size), "float32", number, faults)
    right &= _check_array("state", view.state, (envs, env.state_size), "float32", number, faults)
    if view.alive is not None:
        right &= _check_alive(view.alive, (envs, agents), number, faults)
    if view.action_mask is not None:
        right &= _check_mask(env, view.action_mask, number, faults)
    return right


def _check_alive(alive: Array, shape: tuple[int, int], number: int, faults: _Faults) -> bool:
    """Check who lives; the view shows no episode that is over."""
    if not _check_array("alive", alive, shape, "bool", number, faults):
        return False
    for env in np.flatnonzero(~alive.any(axis=1))[:1]:
        faults.add(
            "alive",
            f"env {env}, step {number}: no agent is alive although the episode goes on; end it",
        )
    return True


def _check_mask(env: BatchedEnv, mask: Array, number: int, faults: _Faults) -> bool:
    """Check an action mask; whether it can be played by."""
    if not isinstance(env.action_space, Discrete):
        faults.add("mask", f"step {number}: action_mask is given, but only Discrete has masks")
        return False
    shape = (env.num_envs, env.num_agents, int(env.action_space.n))
    if not _check_array("action_mask", mask, shape, "bool", number, faults):
        return False
    stuck = np.argwhere(~mask.any(axis=-1))
    if len(stuck):
        faults.add(
            "mask",
            f"env {stuck[0][0]}, step {number}: action_mask forbids agent {stuck[0][1]} every "
            f"action; allow one, also to a dead agent",
        )
        return False
    return True


def _check_step(env: BatchedEnv, step: EnvStep, number: int, faults: _Faults) -> bool:
    """Check one step by itself; whether its shapes and types are right."""
    if not isinstance(step, EnvStep):
        faults.add("step", f"step {number}: step returned a {type(step).__name__}, not an EnvStep")
        return False
    envs, obs_shape = env.num_envs, (env.num_envs, env.num_agents, env.obs_size)
    right = _check_view(env, step.view, number, faults)
    right &= _check_array("reward", step.reward, (envs,), "float32", number, faults)
    for field in ("terminated", "truncated", "success"):
        right &= _check_array(field, getattr(step, field), (envs,), "bool", number, faults)
    right &= _check_array("final_obs", step.final_obs, obs_shape, "float32", number, faults)
    shape = (envs, env.state_size)
    right &= _check_array("final_state", step.final_state, shape, "float32", number, faults)
    if right:
        _check_flags(step, number, faults)
        _check_final("final_obs", step.final_obs, step.view.obs, step, number, faults)
        _check_final("final_state", step.final_state, step.view.state, step, number, faults)
    return right


def _check_flags(step: EnvStep, number: int, faults: _Faults) -> None:
    """Check that an episode ends in one way, and that only ended episodes succeed."""
    for env in np.flatnonzero(step.terminated & step.truncated)[:1]:
        faults.add(
            "flags",
            f"env {env}, step {number}: terminated and truncated are both set; where the task "
            f"ends on the last step it is terminated alone",
        )
    for env in np.flatnonzero(step.success & ~(step.terminated | step.truncated))[:1]:
        faults.add(
            "success",
            f"env {env}, step {number}: success is set although the episode goes on; set it in "
            f"the step that ends the episode",
        )


def _check_final(
    field: str, final: Array, seen: Array, step: EnvStep, number: int, faults: _Faults
) -> None:
    """Check that the final arrays are the view's where no episode ended."""
    goes_on = ~(step.terminated | step.truncated)
    differs = _differs(final, seen).reshape(len(final), -1).any(axis=1)  # [E, ...] -> [E]
    for env in np.flatnonzero(goes_on & differs)[:1]:
        faults.add(
            field,
            f"env {env}, step {number}: {field} differs from the view although the episode goes "
            f"on; both are s_(t+1) there",
        )


def _check_length(
    env: BatchedEnv, step: EnvStep, clock: Array, number: int, faults: _Faults
) -> None:
    """Count the steps of the episodes in `clock` [E] and check that none is too long."""
    clock += 1
    ended = step.terminated | step.truncated
    for late in np.flatnonzero(~ended & (clock >= env.episode_length))[:1]:
        faults.add(
            "length",
            f"env {late}, step {number}: the episode goes on after {clock[late]} steps, but "
            f"episode_length is {env.episode_length}; set truncated there and start a new one",
        )
    clock[ended] = 0


def _differs(given: Array, wanted: Array) -> Array:
    """Where two arrays differ; NaN, which is a fault of its own, is as good as NaN."""
    return (given != wanted) & ~((given != given) & (wanted != wanted))


def _check_ends(played: list[EnvStep], faults: _Faults) -> None:
    """Check that final arrays are not, in every ended episode, the next episode's first."""
    ended = [(step, step.terminated | step.truncated) for step in played]
    count = sum(int(mask.sum()) for _, mask in ended)
    for field, name in (("final_obs", "obs"), ("final_state", "state")):
        first = getattr(played[0].view, name)
        changes = any((getattr(step.view, name) != first).any() for step in played)
        same = all((getattr(s, field) == getattr(s.view, name))[mask].all() for s, mask in ended)
        if count and changes and same:
            faults.add(
                f"ended {field}",
                f"{field} is the next episode's first {name} in all {count} episodes that ended; "
                f"copy what the last step reached before the reset",
            )


def _difference(given: Any, wanted: Any, path: str = "") -> str | None:
    """The first field in which two views or steps differ, with its env; None if they are equal."""
    fields = getattr(wanted, "_fields", None)
    if fields is not None:
        for name, left, right in zip(fields, given, wanted, strict=True):
            found = _difference(left, right, f"{path}.{name}" if path else name)
            if found is not None:
                return found
        return None
    if wanted is None or given is None:
        return None if wanted is given else f"{path} is given once and missing once"
    differs = _differs(given, wanted)
    return f"{path} of env {np.argwhere(differs)[0][0]}" if differs.any() else None


def _check_replay(
    env: BatchedEnv,
    view: EnvView,
    actions: list[Array],
    played: list[EnvStep],
    seed: int,
    faults: _Faults,
) -> bool:
    """Whether the same seed and actions give the same game."""
    remedy = "draw everything random from generators that reset(seed) seeds"
    found = _difference(_reset(env, seed), view)
    if found is not None:
        faults.add("seed", f"step 0: {found} differs after a second reset({seed}); {remedy}")
        return False
    for number, (action, wanted) in enumerate(zip(actions, played, strict=True), start=1):
        found = _difference(_step(env, action.copy(), number), wanted)
        if found is not None:
            faults.add(
                "seed", f"step {number}: {found} differs in a second run of seed {seed}; {remedy}"
            )
            return False
    return True


def _check_restore(
    env: BatchedEnv,
    saved: dict[str, Array],
    actions: list[Array],
    played: list[EnvStep],
    faults: _Faults,
) -> None:
    """Check that the second half of the play repeats after `set_state`."""
    start = len(played) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the comparison below says it better
        _called(f"step {start}: set_state", env.set_state, saved)
    for number in range(start + 1, len(played) + 1):
        found = _difference(_step(env, actions[number - 1].copy(), number), played[number - 1])
        if found is not None:
            faults.add(
                "restore",
                f"step {number}: {found} differs after set_state(get_state()) of step {start}; "
                f"get_state must copy all that decides the future, random generators included",
            )
            return
