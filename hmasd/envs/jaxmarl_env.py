"""Games of JaxMARL as one compiled batch: https://github.com/FLAIROX/JaxMARL, extra `jaxmarl`.

One jitted function steps all envs on the CPU and restarts those that ended, so that the last
observation of an episode is seen, which JaxMARL's own `step` hides. The game's own time limit is
set one step behind `episode_length`: what ends an episode before is the task, and terminates it.

An env's random numbers come from a key of its own, made from (seed, env).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Discrete

from hmasd.envs.actions import BatchActions, padding_notes
from hmasd.envs.batch_checks import check_saved, check_saved_clock
from hmasd.envs.extras import NO_SUCCESS, import_extra
from hmasd.envs.random_state import seed_states
from hmasd.types import EnvStep, EnvView

Outcome = Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]
"""(the game's state after a step, its rewards by agent) -> the team's reward, whether it won."""
Draw = Callable[[Any, int], np.ndarray]
"""(the game's state as numpy arrays, steps played) -> a picture, [height, width, 3] uint8."""


class _Memory(NamedTuple):
    """All that decides one env's future."""

    key: jax.Array  # [2] uint32
    clock: jax.Array  # int32, steps played in this episode
    game: Any  # JaxMARL's state, a tree of arrays


class _Seen(NamedTuple):
    """What one env shows."""

    obs: jax.Array  # [N, O] float32
    state: jax.Array  # [S] float32
    action_mask: jax.Array | None  # [N, A] bool
    alive: jax.Array  # [N] bool


class _Result(NamedTuple):
    """How one step of one env went."""

    reward: jax.Array  # float32
    terminated: jax.Array  # bool
    truncated: jax.Array  # bool
    success: jax.Array  # bool


class JaxMarlEnv:
    """`num_envs` copies of one JaxMARL game; see `BatchedEnv`.

    Observations are flattened; shorter ones are filled up with zeros, and where agents have fewer
    actions than others a mask forbids the rest. The state is the game's `world_state`, or the
    observations joined where it has none. An agent that the game calls done while the others play
    on is dead. A forbidden action does in JaxMARL what doing nothing does.

    The arrays handed out are copies, about 3 µs each: JAX's own memory may only be read, which
    `torch.from_numpy` takes for a mistake.
    """

    def __init__(
        self,
        game: Any,
        num_envs: int,
        episode_length: int,
        outcome: Outcome,
        draw: Draw | None = None,
    ) -> None:
        """Wrap a game whose own time limit is longer than `episode_length`.

        Raises:
            ValueError: a number is below 1, or the agents' actions are of kinds that do not mix.
        """
        for name, value in (("num_envs", num_envs), ("episode_length", episode_length)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        self.num_envs = num_envs
        self.first_env = 0
        self.num_agents = len(game.agents)
        self.episode_length = episode_length
        self._game = game
        self._outcome = outcome
        self._draw = draw
        spaces = [game.action_space(agent) for agent in game.agents]
        self._actions = BatchActions(game.agents, spaces)
        self.action_space = self._actions.space
        self._has_mask = _offers_masks(game)
        self._sizes = self._read_sizes()
        self._dtypes = self._settle_dtypes()
        memory, seen = jax.eval_shape(self._begin, jax.ShapeDtypeStruct((2,), jnp.uint32))
        self._template = memory
        self.obs_size = seen.obs.shape[-1]
        self.state_size = seen.state.shape[-1]
        self.notes = self._actions.notes + padding_notes(self._sizes)
        if self.state_size == self.num_agents * self.obs_size:
            self.notes.append("the agents' observations joined stand in for a state")
        self._cpu = jax.devices("cpu")[0]
        self._begin_all = jax.jit(jax.vmap(self._begin))
        self._step_all = jax.jit(self._step_batch)
        self._play_all = jax.jit(jax.vmap(self._play))
        self._memory: _Memory | None = None
        self._last_step: tuple[_Memory, np.ndarray] | None = None  # what it began with

    def reset(self, seed: int) -> EnvView:
        """Start new episodes; what env e does depends on (seed, first_env + e) alone."""
        states = seed_states(seed, self.num_envs, self.first_env)
        keys = states.view(np.uint32).reshape(self.num_envs, 2)
        self._memory, seen = self._begin_all(jax.device_put(keys, self._cpu))
        self._last_step = None
        return _view(seen)

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended; action: [E, N] or [E, N, A].

        Raises:
            ValueError: the actions' shape, type or a value is wrong; nothing was played then.
            RuntimeError: the env was not started.
        """
        if self._memory is None:
            raise RuntimeError("step() before reset(): call reset(seed) or set_state(state) first")
        played = self._actions.read(action, self.num_envs)
        self._last_step = (self._memory, played)
        self._memory, seen, final, result = self._step_all(self._memory, played)
        return EnvStep(
            view=_view(seen),
            final_obs=np.array(final[0]),
            final_state=np.array(final[1]),
            **{name: np.array(array) for name, array in result._asdict().items()},
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all arrays of JaxMARL's state, with each env's key and clock: [E, ...] each."""
        if self._memory is None:
            raise RuntimeError("get_state() before reset(): there is nothing to save yet")
        return {name: np.array(array) for name, array in _named(self._memory).items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly from where `get_state` was called, on an env of as many games.

        Raises:
            ValueError: a name, a shape, a type or a clock is not what `get_state` returns.
        """
        names = _named(self._template)
        shapes = {name: (self.num_envs, *leaf.shape) for name, leaf in names.items()}
        wanted = {name: np.empty(shapes[name], leaf.dtype) for name, leaf in names.items()}
        check_saved(wanted, state)
        check_saved_clock(state[".clock"], self.episode_length)
        leaves = [jax.device_put(np.array(state[name]), self._cpu) for name in wanted]
        self._memory = jax.tree.unflatten(jax.tree.structure(self._template), leaves)
        self._last_step = None

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of env `index` as its last step left it: [height, width, 3] uint8.

        That step is played again, since an episode that it ended is forgotten already.

        Raises:
            NotImplementedError: the game has no picture; SMAX has.
            RuntimeError: the env was not started.
            ValueError: there is no such env.
        """
        if self._draw is None:
            raise NotImplementedError(f"{self._game.name} of JaxMARL has no picture as an array")
        if self._memory is None:
            raise RuntimeError("render() before reset(): there is nothing to draw yet")
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no env {index} to draw: there are {self.num_envs} envs")
        reached = self._memory
        if self._last_step is not None:
            reached, _, _ = self._play_all(*self._last_step)
        shown = jax.tree.map(lambda array: np.asarray(array[index]), reached)
        return self._draw(shown.game, int(shown.clock))

    def close(self) -> None:
        """Give back what the env holds: nothing but memory."""

    def _read_sizes(self) -> tuple[int, ...]:
        """Length of each agent's flattened observation."""
        obs, _ = jax.eval_shape(self._game.reset, jax.random.PRNGKey(0))
        return tuple(int(np.prod(obs[agent].shape)) for agent in self._game.agents)

    def _settle_dtypes(self) -> Any:
        """Types that hold a state after a reset as well as after a step; some games mix them."""
        key = jax.random.PRNGKey(0)
        space, agents = self.action_space, self._game.agents
        zero = np.zeros(space.shape or (), dtype=np.int32 if isinstance(space, Discrete) else None)
        _, fresh = jax.eval_shape(self._game.reset, key)
        actions = dict.fromkeys(agents, jnp.asarray(zero))
        _, reached, *_ = jax.eval_shape(self._game.step_env, key, fresh, actions)
        return jax.tree.map(lambda a, b: jnp.promote_types(a.dtype, b.dtype), fresh, reached)

    def _begin(self, key: jax.Array) -> tuple[_Memory, _Seen]:
        """Start an episode of one env; key: [2] uint32."""
        key, reset_key = jax.random.split(key)
        obs, game = self._game.reset(reset_key)
        game = jax.tree.map(lambda array, dtype: jnp.asarray(array, dtype), game, self._dtypes)
        alive = jnp.ones(self.num_agents, dtype=bool)
        return _Memory(key, jnp.int32(0), game), self._look(obs, game, alive)

    def _play(self, memory: _Memory, action: jax.Array) -> tuple[_Memory, _Seen, _Result]:
        """Play one step of one env, which does not restart; action: [N] or [N, A]."""
        key, step_key = jax.random.split(memory.key)
        actions = {agent: action[i] for i, agent in enumerate(self._game.agents)}
        obs, game, rewards, dones, _ = self._game.step_env(step_key, memory.game, actions)
        game = jax.tree.map(lambda array, dtype: jnp.asarray(array, dtype), game, self._dtypes)
        clock = memory.clock + 1
        terminated = dones["__all__"]
        reward, won = self._outcome(game, rewards)
        truncated = (clock >= self.episode_length) & ~terminated
        alive = jnp.stack([~dones[agent] for agent in self._game.agents])
        success = won & (terminated | truncated)
        result = _Result(reward.astype(jnp.float32), terminated, truncated, success)
        return _Memory(key, clock, game), self._look(obs, game, alive), result

    def _step_batch(
        self, memory: _Memory, action: jax.Array
    ) -> tuple[_Memory, _Seen, tuple[jax.Array, jax.Array], _Result]:
        """Play one step of all envs; restarts are computed only in steps in which one is due."""
        reached, final, result = jax.vmap(self._play)(memory, action)
        ended = result.terminated | result.truncated

        def restart() -> tuple[_Memory, _Seen]:
            fresh = jax.vmap(self._begin)(reached.key)
            return jax.tree.map(lambda new, old: _where(ended, new, old), fresh, (reached, final))

        memory, seen = jax.lax.cond(ended.any(), restart, lambda: (reached, final))
        return memory, seen, (final.obs, final.state), result

    def _look(self, obs: dict[str, jax.Array], game: Any, alive: jax.Array) -> _Seen:
        """What one env shows, as arrays of all agents."""
        longest = max(self._sizes)
        rows = [
            jnp.pad(obs[agent].astype(jnp.float32).ravel(), (0, longest - size))
            for agent, size in zip(self._game.agents, self._sizes, strict=True)
        ]
        joined = jnp.stack(rows)
        state = obs.get("world_state", joined).astype(jnp.float32).ravel()
        return _Seen(joined, state, self._mask(game), alive)

    def _mask(self, game: Any) -> jax.Array | None:
        """The allowed actions [N, A]; None where all agents may always do everything."""
        if not isinstance(self.action_space, Discrete):
            return None
        if self._has_mask:
            actions = int(self.action_space.n)
            given = self._game.get_avail_actions(game)
            masks = [given[agent].astype(bool) for agent in self._game.agents]
            return jnp.stack([jnp.pad(mask, (0, actions - len(mask))) for mask in masks])
        return None if self._actions.mask is None else jnp.asarray(self._actions.mask)


def make_jaxmarl(
    num_envs: int,
    episode_length: int,
    game: str,
    team_reward: Literal["sum", "mean"] = "sum",
    **game_args: Any,
) -> JaxMarlEnv:
    """Make a batch of a game by JaxMARL's name for it; its episodes never count as successes.

    Args:
        num_envs: E.
        episode_length: steps after which an episode is truncated.
        game: one of `jaxmarl.registered_envs` with a setting `max_steps`, as "overcooked".
        team_reward: how the agents' rewards become the team's.
        game_args: the game's own settings; Overcooked's `layout` is given by name.

    Raises:
        MissingPackageError: JaxMARL is not installed.
        ValueError: the game or a setting is unknown.
    """
    if team_reward not in ("sum", "mean"):
        raise ValueError(f"team_reward is {team_reward!r}, but must be 'sum' or 'mean'")
    made = make_game(game, episode_length, game_args)
    combine = jnp.sum if team_reward == "sum" else jnp.mean

    def outcome(state: Any, rewards: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return combine(jnp.stack([rewards[a] for a in made.agents])), jnp.bool_(False)

    env = JaxMarlEnv(made, num_envs, episode_length, outcome)
    env.notes.append(f"the game {NO_SUCCESS}")
    return env


def make_game(name: str, episode_length: int, game_args: dict[str, Any]) -> Any:
    """JaxMARL's game, with its own time limit out of the way."""
    jaxmarl = import_extra("jaxmarl", "jaxmarl")
    if name not in jaxmarl.registered_envs:
        known = ", ".join(jaxmarl.registered_envs)
        raise ValueError(f"JaxMARL has no game {name!r}; it has {known}")
    if isinstance(game_args.get("layout"), str):
        layouts = import_extra("jaxmarl.environments.overcooked", "jaxmarl").overcooked_layouts
        if game_args["layout"] not in layouts:
            raise ValueError(
                f"there is no layout {game_args['layout']!r}; JaxMARL has {', '.join(layouts)}"
            )
        game_args = game_args | {"layout": layouts[game_args["layout"]]}
    try:
        return jaxmarl.make(name, max_steps=episode_length + 1, **game_args)
    except TypeError as error:
        raise ValueError(
            f"JaxMARL cannot make {name!r} with settings {sorted(['max_steps', *game_args])}: "
            f"{error}"
        ) from error


def _offers_masks(game: Any) -> bool:
    """Whether the game says which actions are allowed; the base class raises instead."""
    _, state = jax.eval_shape(game.reset, jax.random.PRNGKey(0))
    try:
        jax.eval_shape(game.get_avail_actions, state)
    except NotImplementedError:
        return False
    return True


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` in the chosen envs, `old` in the others; chosen: [E], new and old: [E, ...]."""
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their path in it, in the tree's order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _view(seen: _Seen) -> EnvView:
    """What all envs show, as arrays of this process."""
    mask = None if seen.action_mask is None else np.array(seen.action_mask)
    return EnvView(np.array(seen.obs), np.array(seen.state), mask, np.array(seen.alive))
