"""Asynchronous training, the guide's "original version": it exists to be compared with.

An update comes as soon as the buffer holds a small batch, while all envs are in the middle of
something: what they did stays in the buffer, becomes off-policy, and is mixed with what newer
policies did. How much of each batch that is gets measured (`async/...`). The synchronous agent
shares none of this: it refuses a row of another version.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hmasd.agent import HMASDAgent
from hmasd.algorithm.discoverer import RoundTail
from hmasd.algorithm.optimization import Metrics
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.envs.base import BatchedEnv
from hmasd.rollout.fragments import FragmentStorage
from hmasd.types import Acting, EnvStep, LowRollout, TensorView


def make_agent(config: Config, env: BatchedEnv, ranks: Ranks = ALONE) -> HMASDAgent:
    """The agent that `sync_mode` asks for; only the synchronous one learns on several ranks."""
    return HMASDAgent(config, env, ranks) if config.sync_mode else AsynchronousAgent(config, env)


class AsynchronousAgent(HMASDAgent):
    """Learns from fragments of `chunk_length` steps as they are finished, `batch_size` at a time.

    Its coordinator learns as soon as enough segments are closed; those that are open stay
    open, and end under another version than the one that chose their skills.
    """

    def _build_memory(self, env: BatchedEnv) -> None:
        super()._build_memory(env)
        config = self.config
        self.gate.sync_mode = False
        self.fragments = FragmentStorage(
            config.num_envs, config.chunk_length, config.batch_size // config.chunk_length
        )
        self.low_storage = self.fragments
        self._updated_at = 0

    @property
    def steps_learned(self) -> int:
        """Env steps at the last update."""
        return self._updated_at

    def store_transition(self, view: TensorView, acting: Acting, step: EnvStep) -> bool:
        """Store one step of all envs; nothing is ever refused. See `HMASDAgent`."""
        super().store_transition(view, acting, step)
        assert self._next_view is not None, "a step was stored"
        # A finished fragment's last value is that under the next step's skills: draw them now.
        self._decide_where_due(self._next_view)
        clock = self.team.clock
        self.fragments.finish(
            {
                "team_skill": clock.team_skill,
                "agent_skills": clock.agent_skills,
                "restart": self.team.restart,
            }
        )
        self.gate.samples_collected_this_round = self.fragments.waiting_samples
        return True

    def sync_update(self) -> dict[str, float]:
        """Update on the oldest finished fragments; the others stay. See `HMASDAgent`."""
        metrics = super().sync_update()
        self.gate.samples_collected_this_round = self.fragments.waiting_samples
        self._updated_at = self.env_steps
        return metrics

    def _tail(self) -> RoundTail:
        return RoundTail(
            self.critic_hidden[self.fragments.envs],
            self.fragments.following("team_skill"),
            self.fragments.following("agent_skills"),
            self.fragments.following("restart"),
        )

    def _keep_critic_hidden(self, hidden: Tensor) -> None:
        self.critic_hidden[self.fragments.envs] = hidden

    def _update_coordinator(self, view: TensorView) -> Metrics:
        """Learn from the closed segments; the open ones run on, chosen by what is now old.

        Where a survey begins or ends, or the coordinator begins anew, they are forgotten.
        """
        segments = self.high_storage.closed()
        lag = off_policy(self.coordinator_version, segments.coordinator_version, "coordinator_")
        chooser = self.team.chooses_by_chance, self.exploration.since
        metrics = self._learn_from(segments)
        if chooser != (
            self.team.chooses_by_chance,
            self.exploration.since,
        ):  # what they choose never mixes
            self.high_storage.cut(view)
            self.high_storage.clear()
            self.team.clock.interrupt()
        self.coordinator_version += 1
        return metrics | lag

    def _round_metrics(self, rollout: LowRollout, living: float) -> Metrics:
        held = self.fragments.waiting_samples + self.config.num_envs * self.config.chunk_length
        return (
            super()._round_metrics(rollout, living)
            | {"Buffer/low_level_buffer_size": float(held)}
            | off_policy(self.policy_version, rollout.policy_version)
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the agent needs to go on exactly, at any step."""
        return super().state_dict() | {"updated_at": self._updated_at}

    def load_state_dict(
        self, state: dict[str, Any], saved_settings: dict[str, Any] | None = None
    ) -> None:
        """Go on exactly from `state_dict`; see `HMASDAgent`."""
        super().load_state_dict(state, saved_settings)
        self._updated_at = state["updated_at"]


def off_policy(current: int, versions: Tensor, of: str = "") -> dict[str, float]:
    """How much of a batch older versions made, and by how many versions older: `async/...`.

    Args:
        current: version that learns.
        versions: any shape, versions that made each sample.
        of: in front of each metric's name.
    """
    lag = (current - versions).double()
    return {
        f"async/{of}off_policy_share": float((lag > 0).double().mean()),
        f"async/{of}lag_mean": float(lag.mean()),
        f"async/{of}lag_max": float(lag.max()),
    }
