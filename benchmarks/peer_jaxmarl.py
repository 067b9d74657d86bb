"""Recurrent MAPPO on JaxMARL's simple_spread: what `benchmarks/compare.py` runs beside ours.

    python benchmarks/peer_jaxmarl.py --epochs 15 --rounds 20

JaxMARL's baselines are not in its package, so this is its `mappo_rnn` for MPE written again: the
same networks (Dense, GRU, Dense, Dense; a critic per agent over all observations joined), the same
loss, one sequence per agent and env from the round's first step on, one minibatch, and collection
and all epochs compiled into one program. Compile time is told apart. Needs `.[bench]`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from typing import Any, NamedTuple

CLIP, GAMMA, GAE_LAMBDA = 0.2, 0.99, 0.95
ENTROPY_COEF, VALUE_COEF, MAX_GRAD_NORM = 0.01, 0.5, 0.5


def parse() -> argparse.Namespace:
    """The command line; the number of threads is settled before jax is imported."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="steps per env in a round")
    parser.add_argument("--num-agents", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=20, help="rounds that are counted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"
    return args


if __name__ == "__main__":
    ARGS = parse()

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import optax
from flax.linen.initializers import constant, orthogonal
from flax.training.train_state import TrainState


class ScannedGRU(nn.Module):
    """A GRU over time whose state restarts where an episode does."""

    @nn.compact
    def __call__(self, hidden: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> Any:
        """hidden [B, d]; features [T, B, d] and restarts [T, B]."""
        step = nn.scan(
            _GRUStep, variable_broadcast="params", split_rngs={"params": False}, in_axes=0
        )
        return step()(hidden, inputs)


class _GRUStep(nn.Module):
    @nn.compact
    def __call__(self, hidden: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> Any:
        features, restart = inputs
        hidden = jnp.where(restart[:, None], 0.0, hidden)
        return nn.GRUCell(features=hidden.shape[-1])(hidden, features)


class Network(nn.Module):
    """Dense, GRU, Dense, Dense."""

    num_outputs: int
    hidden_size: int
    last_gain: float

    @nn.compact
    def __call__(self, hidden: jax.Array, inputs: jax.Array, restart: jax.Array) -> Any:
        """hidden [B, d], inputs [T, B, I], restart [T, B] -> hidden [B, d], outputs [T, B, O]."""
        features = nn.relu(self._dense(self.hidden_size, np.sqrt(2))(inputs))
        hidden, features = ScannedGRU()(hidden, (features, restart))
        features = nn.relu(self._dense(self.hidden_size, 2.0)(features))
        return hidden, self._dense(self.num_outputs, self.last_gain)(features)

    @staticmethod
    def _dense(size: int, gain: float) -> nn.Dense:
        return nn.Dense(size, kernel_init=orthogonal(gain), bias_init=constant(0.0))


class Step(NamedTuple):
    """One step of all envs; B = N * E sequences, agent by agent."""

    obs: jax.Array  # [B, O]
    world: jax.Array  # [B, N * O]
    restart: jax.Array  # [B]
    action: jax.Array  # [B]
    logp: jax.Array  # [B]
    value: jax.Array  # [B]
    reward: jax.Array  # [B]
    done: jax.Array  # [B]


class Trainer:
    """One round as one compiled program."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.env = jaxmarl.make(
            "MPE_simple_spread_v3",
            num_agents=args.num_agents,
            num_landmarks=args.num_agents,
            max_steps=args.steps,
        )
        self.agents = self.env.agents
        num_actions = self.env.action_space(self.agents[0]).n
        self.actor = Network(num_actions, args.hidden_size, 0.01)
        self.critic = Network(1, args.hidden_size, 1.0)

    def start(self, key: jax.Array) -> Any:
        """Networks, envs and recurrent states at the beginning."""
        actor_key, critic_key, env_key, key = jax.random.split(key, 4)
        rows = self.args.num_agents * self.args.num_envs
        hidden = jnp.zeros((rows, self.args.hidden_size))
        obs, env_state = jax.vmap(self.env.reset)(jax.random.split(env_key, self.args.num_envs))
        restart = jnp.zeros(rows, dtype=bool)
        own, world = self._see(obs)
        states = tuple(
            TrainState.create(
                apply_fn=network.apply,
                params=network.init(k, hidden, x[None], restart[None]),
                tx=optax.chain(
                    optax.clip_by_global_norm(MAX_GRAD_NORM),
                    optax.adam(self.args.learning_rate, eps=1e-5),
                ),
            )
            for network, k, x in (
                (self.actor, actor_key, own),
                (self.critic, critic_key, world),
            )
        )
        return states, env_state, obs, restart, (hidden, hidden), key

    def round(self, carry: Any) -> tuple[Any, jax.Array]:
        """Collect a round and learn from it; the new carry, and the round's mean reward."""
        first_hidden = carry[4]
        carry, steps = jax.lax.scan(self._step, carry, None, self.args.steps)
        states, env_state, obs, restart, hidden, key = carry
        _, last_value = self.critic.apply(
            states[1].params, hidden[1], self._see(obs)[1][None], restart[None]
        )
        advantage = _advantages(steps, last_value[0, :, 0])
        target = advantage + steps.value

        def epoch(states: Any, _: None) -> tuple[Any, None]:
            actor, critic = states
            actor_gradient = jax.grad(self._actor_loss)(
                actor.params, first_hidden[0], steps, advantage
            )
            critic_gradient = jax.grad(self._critic_loss)(
                critic.params, first_hidden[1], steps, target
            )
            return (
                actor.apply_gradients(grads=actor_gradient),
                critic.apply_gradients(grads=critic_gradient),
            ), None

        states, _ = jax.lax.scan(epoch, states, None, self.args.epochs)
        return (states, env_state, obs, restart, hidden, key), steps.reward.mean()

    def _see(self, obs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Observations [B, O], and all of an env's joined [B, N * O]."""
        stacked = jnp.stack([obs[agent] for agent in self.agents])  # [N, E, O]
        joined = stacked.swapaxes(0, 1).reshape(self.args.num_envs, -1)  # [E, N * O]
        return stacked.reshape(-1, stacked.shape[-1]), jnp.tile(joined, (len(self.agents), 1))

    def _step(self, carry: Any, _: None) -> tuple[Any, Step]:
        states, env_state, obs, restart, hidden, key = carry
        key, action_key, env_key = jax.random.split(key, 3)
        own, world = self._see(obs)
        actor_hidden, logits = self.actor.apply(
            states[0].params, hidden[0], own[None], restart[None]
        )
        critic_hidden, value = self.critic.apply(
            states[1].params, hidden[1], world[None], restart[None]
        )
        action = jax.random.categorical(action_key, logits[0])
        played = dict(zip(self.agents, action.reshape(len(self.agents), -1), strict=True))
        obs, env_state, reward, done, _ = jax.vmap(self.env.step)(
            jax.random.split(env_key, self.args.num_envs), env_state, played
        )
        ended = jnp.tile(done["__all__"], len(self.agents))
        step = Step(
            own,
            world,
            restart,
            action,
            _logp(logits[0], action),
            value[0, :, 0],
            jnp.concatenate([reward[agent] for agent in self.agents]),
            ended,
        )
        return (states, env_state, obs, ended, (actor_hidden, critic_hidden), key), step

    def _actor_loss(
        self, params: Any, hidden: jax.Array, steps: Step, advantage: jax.Array
    ) -> jax.Array:
        _, logits = self.actor.apply(params, hidden, steps.obs, steps.restart)
        ratio = jnp.exp(_logp(logits, steps.action) - steps.logp)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
        loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
        logp = jax.nn.log_softmax(logits)
        entropy = -(jnp.exp(logp) * logp).sum(-1)
        return loss - ENTROPY_COEF * entropy.mean()

    def _critic_loss(
        self, params: Any, hidden: jax.Array, steps: Step, target: jax.Array
    ) -> jax.Array:
        _, value = self.critic.apply(params, hidden, steps.world, steps.restart)
        value = value[..., 0]
        clipped = steps.value + (value - steps.value).clip(-CLIP, CLIP)
        worst = jnp.maximum(jnp.square(value - target), jnp.square(clipped - target))
        return VALUE_COEF * 0.5 * worst.mean()


def _logp(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Log-probability of each action: [..., A] and [...]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]


def _advantages(steps: Step, last_value: jax.Array) -> jax.Array:
    """GAE: [T, B]."""

    def back(carry: Any, step: Step) -> Any:
        advantage, next_value = carry
        goes_on = 1 - step.done
        delta = step.reward + GAMMA * next_value * goes_on - step.value
        advantage = delta + GAMMA * GAE_LAMBDA * goes_on * advantage
        return (advantage, step.value), advantage

    first = (jnp.zeros_like(last_value), last_value)
    return jax.lax.scan(back, first, steps, reverse=True, unroll=16)[1]


def main() -> None:
    """Train for some rounds and print one line of JSON."""
    trainer = Trainer(ARGS)
    carry = jax.jit(trainer.start)(jax.random.PRNGKey(ARGS.seed))
    start = time.perf_counter()
    program = jax.jit(trainer.round, donate_argnums=0).lower(carry).compile()
    compile_seconds = time.perf_counter() - start
    rewards, seconds = [], []
    for _ in range(ARGS.warm_up + ARGS.rounds):
        start = time.perf_counter()
        carry, reward = program(carry)
        rewards.append(float(reward))  # waits
        seconds.append(time.perf_counter() - start)
    counted = seconds[ARGS.warm_up :]
    steps = ARGS.num_envs * ARGS.steps
    figures = {
        "threads": ARGS.threads,
        "rounds": len(counted),
        "steps_per_round": steps,
        "steps_per_second": steps * len(counted) / sum(counted),
        "median_steps_per_second": steps / float(np.median(counted)),
        "compile_seconds": compile_seconds,
        "reward_first": rewards[0],
        "reward_last": rewards[-1],
        "reward_last_tenth": float(np.mean(rewards[-max(1, len(rewards) // 10) :])),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
