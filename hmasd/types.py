"""What travels between the stops of the walk (docs/walk.md); imports nothing of ours.

Legend of the shapes, used everywhere: ``T`` steps per env in a round, ``E`` envs, ``N`` agents,
``D`` segments of a coordinator's batch, ``O``/``S`` observation/state size, ``A`` actions.
Time first: ``[T, E, N, ...]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # an env worker needs no torch, whose import takes seconds
    from torch import Tensor


class EnvOptions(NamedTuple):
    """Settings of how an environment is made, beside its name and its batch's size."""

    env_args: str = ""  # YAML mapping: keyword arguments of the env's factory
    team_reward: str = "sum"  # "sum" or "mean" of the agents' rewards
    workers: int = 0  # processes that play the envs; 0: this one
    timeout: float = 60.0  # seconds that a worker may take to start, or for one step of its envs
    restarts: int = 0  # failed workers that are replaced


class EnvShare(NamedTuple):
    """Which of a run's envs this process plays: `size` of `total`, from number `first` on."""

    first: int
    size: int
    total: int

    @property
    def rows(self) -> slice:
        """Of anything that has a row for each env of the run."""
        return slice(self.first, self.first + self.size)


class EnvView(NamedTuple):
    """What the team may look at before it acts."""

    obs: np.ndarray  # [E, N, O] float32
    state: np.ndarray  # [E, S] float32
    action_mask: np.ndarray | None = None  # [E, N, A] bool, True where the action is allowed
    alive: np.ndarray | None = None  # [E, N] bool, None: all agents live all the time


class EnvStep(NamedTuple):
    """One step of all envs. Those that ended have been reset: `view` shows the new episode."""

    view: EnvView
    reward: np.ndarray  # [E] float32, the team's
    terminated: np.ndarray  # [E] bool, the task ended: what follows is worth 0
    truncated: np.ndarray  # [E] bool, the clock ended: what follows has the value of `final_state`
    final_obs: np.ndarray  # [E, N, O] o_{t+1} of this episode; equals view.obs where it goes on
    final_state: np.ndarray  # [E, S] s_{t+1} of this episode; equals view.state where it goes on
    success: np.ndarray  # [E] bool, the episode ended in this step and reached its goal
    lost: np.ndarray | None = None  # [E] bool, the env failed and was replaced; None: none was


HOST_FIELDS = {
    *("env", "envs", "reward", "terminated", "truncated", "success", "ended", "restart"),
    *("alive", "length", "cut", "policy_version", "coordinator_version", "discarded"),
    "is_first",
}
"""Fields of everything below that stay on the host (rewards, ends, who lives, which version): few
numbers, by which it decides what comes next without waiting for the networks' device, where the
rest is. Batches of an update are on the device, but for `keep`."""


class TensorView(NamedTuple):
    """An `EnvView` as tensors."""

    obs: Tensor  # [E, N, O]
    state: Tensor  # [E, S]
    action_mask: Tensor | None  # [E, N, A] bool
    alive: Tensor | None  # [E, N] bool


class Decision(NamedTuple):
    """Skills chosen by the coordinator for the n envs whose clock was due."""

    envs: Tensor  # [n] int64
    team_skill: Tensor  # [n]
    agent_skills: Tensor  # [n, N]
    logp: Tensor  # [n, N+1], token 0 is the team skill
    mask: Tensor | None = None  # [n, N, A] bool, where skills are actions: those allowed


class Acting(NamedTuple):
    """What the team did in one step, under which policy: a row of the round but for its outcome."""

    action: Tensor  # [E, N] int64, or [E, N, A] for continuous actions
    logp: Tensor  # [E, N]
    team_skill: Tensor  # [E] int64
    agent_skills: Tensor  # [E, N] int64
    actor_hidden: Tensor  # [E, N, d] GRU state before the step (before a restart)
    restart: Tensor  # [E] bool, the GRU state restarts before this step
    policy_version: int
    step: int  # number of the lock-step since the start of training: no row can be stored twice


class LowRollout(NamedTuple):
    """One full round of the low level, on one policy version."""

    obs: Tensor  # [T, E, N, O]
    state: Tensor  # [T, E, S]
    action: Tensor  # [T, E, N] or [T, E, N, A]
    logp: Tensor  # [T, E, N]
    team_skill: Tensor  # [T, E]
    agent_skills: Tensor  # [T, E, N]
    restart: Tensor  # [T, E] bool
    reward: Tensor  # [T, E]
    terminated: Tensor  # [T, E] bool
    truncated: Tensor  # [T, E] bool
    success: Tensor  # [T, E] bool, the episode ended in this step and reached its goal
    next_obs: Tensor  # [T, E, N, O] o_{t+1} of the same episode
    next_state: Tensor  # [T, E, S] s_{t+1} of the same episode
    actor_hidden: Tensor  # [T / chunk, E, N, d] GRU state before every chunk
    policy_version: Tensor  # [T, E] int64
    action_mask: Tensor | None  # [T, E, N, A] bool
    alive: Tensor | None  # [T, E, N] bool; False for all agents of an env whose round is lost


class HighRollout(NamedTuple):
    """Closed segments, in the order in which they closed; all on one coordinator version."""

    env: Tensor  # [D] int64
    state: Tensor  # [D, S] at the decision
    obs: Tensor  # [D, N, O] at the decision
    team_skill: Tensor  # [D]
    agent_skills: Tensor  # [D, N]
    logp: Tensor  # [D, N+1]
    reward: Tensor  # [D] sum over the segment
    length: Tensor  # [D] int64, steps
    terminated: Tensor  # [D] bool, what follows is worth 0
    ended: Tensor  # [D] bool, the next segment of this env does not continue this one
    cut: Tensor  # [D] bool, closed by the coordinator's update
    next_state: Tensor  # [D, S] reached at the segment's end
    next_obs: Tensor  # [D, N, O]
    coordinator_version: Tensor  # [D] int64
    alive: Tensor  # [D, N] bool, at the decision
    mean_state: Tensor  # [D, S] of the states reached in as many steps as a whole segment has
    mean_before: Tensor  # [D, S] that of the one before it in its episode, or the state it began in
    is_first: Tensor  # [D] bool, there is none before it
    mask: Tensor | None = None  # [D, N, A] bool, where skills are actions: those allowed


class RewardParts(NamedTuple):
    """The discoverer's reward and what it is made of (HMASD eq. 4), parts already weighted."""

    extrinsic: Tensor  # [T, E]
    team: Tensor  # [T, E]
    individual: Tensor  # [T, E, N]
    mixed: Tensor  # [T, E, N], their sum


class ActorBatch(NamedTuple):
    """A round as the actor learns from it: B = T / L * E * N recurrent chunks of L steps."""

    obs: Tensor  # [L, B, O]
    skill: Tensor  # [L, B]
    hidden: Tensor  # [B, d]
    keep: Tensor  # [L, B] on the host, 0 where the state restarts
    action_mask: Tensor | None  # [L, B, A]
    action: Tensor  # [L, B] or [L, B, A]
    logp: Tensor  # [L, B]
    advantage: Tensor  # [L, B]
    weight: Tensor | None  # [L, B], 0 for dead agents


class CriticBatch(NamedTuple):
    """A round as the critic learns from it: M = T / L * E recurrent chunks of L steps."""

    state: Tensor  # [L, M, S], or [L, M, N, O] where each agent is valued by what it sees
    team_skill: Tensor  # [L, M]
    agent_skills: Tensor  # [L, M, N]
    hidden: Tensor  # [M, d], or [M, N, d]
    keep: Tensor  # [L, M] on the host, 0 where the state restarts
    value: Tensor  # [L, M, V] before the update, normalised units; V = N, or 1 for all agents
    target: Tensor  # [L, M, N] each agent's return, normalised units
    weight: Tensor | None  # [L, M, N], 0 for dead agents


class HighBatch(NamedTuple):
    """Segments as the coordinator learns from them; token 0 is the team skill, 1..N the agents'."""

    state: Tensor  # [D, S]
    obs: Tensor  # [D, N, O]
    team_skill: Tensor  # [D]
    agent_skills: Tensor  # [D, N]
    logp: Tensor  # [D, N+1]
    advantage: Tensor  # [D, N+1]
    value: Tensor  # [D, N+1] before the update, normalised units
    target: Tensor  # [D, N+1] normalised units
    weight: Tensor | None  # [D, N+1], 0 for dead agents
    mask: Tensor | None = None  # [D, N, A] bool, where skills are actions: those allowed
