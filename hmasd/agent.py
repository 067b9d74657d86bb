"""`HMASDAgent`: the guide's names, over the rooms that do the work (docs/walk.md)."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmasd import checkpoint
from hmasd.algorithm.coordinator import Coordinator
from hmasd.algorithm.discoverer import Discoverer, RoundTail, critic_pass
from hmasd.algorithm.discriminators import Discriminators
from hmasd.algorithm.exploration import Exploration
from hmasd.algorithm.explorer import Explorer
from hmasd.algorithm.novelty import Novelty
from hmasd.algorithm.optimization import Metrics, read
from hmasd.algorithm.policy_average import PolicyAverage, follow
from hmasd.algorithm.wins import Wins, ended_and_won
from hmasd.batch_schedule import next_batch_size
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.envs.base import BatchedEnv
from hmasd.networks import make_networks
from hmasd.rollout.segments import SegmentStorage
from hmasd.rollout.storage import RoundStorage
from hmasd.rollout.team import Generators, Team, training_generators
from hmasd.round_metrics import counting, reward_metrics, segment_metrics, skill_metrics
from hmasd.sync import SyncGate
from hmasd.types import Acting, EnvStep, EnvView, HighRollout, LowRollout, TensorView

OUTCOME = ("reward", "terminated", "truncated", "success")  # of a step, [E] each


class HMASDAgent:
    """The learning team: acts, stores, and updates itself when a round is full.

    One round: `act` and `store_transition` until `should_sync_update()`, then `sync_update()`.
    """

    def __init__(self, config: Config, env: BatchedEnv, ranks: Ranks = ALONE) -> None:
        """The env is only read for its sizes and its action space.

        Args:
            config: settings of the run; its envs and its round are those of all ranks.
            env: this rank's envs.
            ranks: the processes that collect and learn together.
        """
        self.config = config
        self.ranks = ranks
        self.share = ranks.share(config.num_envs)
        self.device = torch.device(config.device)
        self.num_agents = env.num_agents
        self.gate = SyncGate(config.batch_size)
        self.coordinator_version = 0
        self.env_steps = 0
        self.networks = make_networks(
            config, env.num_agents, env.obs_size, env.state_size, env.action_space
        )
        self.played = copy.deepcopy(self.networks).requires_grad_(False)
        self.average = PolicyAverage(config.policy_average)
        self._build_updaters(env)
        self._build_memory(env)
        self._follow_wins()

    def _build_updaters(self, env: BatchedEnv) -> None:
        config, nets, ranks = self.config, self.networks, self.ranks
        self.wins = Wins(config)
        self.exploration = Exploration(config, self.wins)
        high = nets.coordinator, nets.high_normalizer
        self.coordinator = Coordinator(config, *high, ranks)
        self.explorer = Explorer(self.coordinator, self.exploration, self._novelty(env))
        self.discoverer = Discoverer(config, nets.actor, nets.critic, nets.low_normalizer, ranks)
        discriminators = nets.team_discriminator, nets.individual_discriminator
        self.discriminators = Discriminators(config, *discriminators, ranks)
        self._learners = (
            self.coordinator.learner,
            self.discoverer.actor_learner,
            self.discoverer.critic_learner,
            self.discriminators.team_learner,
            self.discriminators.individual_learner,
        )

    def _novelty(self, env: BatchedEnv) -> Novelty | None:
        """What segments led to so far; None: nothing is worth anything for being new."""
        config = self.config
        if not (config.novelty_coef and config.exploration_start and self._coordinator_learns):
            return None
        interval = config.survey_interval
        return Novelty(env.state_size, config.seed, self.device, self.ranks, interval=interval)

    def _build_memory(self, env: BatchedEnv) -> None:
        config = self.config
        self.generators = training_generators(config.seed, self.device)
        self.team = Team(
            config,
            self.networks.coordinator,
            self.networks.actor,
            (self.share.size, env.num_agents),
            Generators(*(self.generators[name] for name in Generators._fields)),
            self.share,
        )
        rows = (self.share.size, env.num_agents)[: 1 + self.networks.critic.sees_own]
        self.critic_hidden = torch.zeros(
            *rows, config.hidden_size, dtype=self.team.dtype, device=self.device
        )
        self.low_storage: RoundStorage = RoundStorage(config.rollout_length, config.chunk_length)
        step_discount = config.gamma if config.high_discount == "smdp" else 1.0
        self.high_storage = SegmentStorage(self.share.size, step_discount, config.longest_segment)
        self._next_view: TensorView | None = None

    # --- the guide's names --------------------------------------------------------------------

    @property
    def sync_mode(self) -> bool:
        """Whether updates wait for a full round of one policy version; always so in this class."""
        return self.gate.sync_mode

    @property
    def collection_enabled(self) -> bool:
        """Whether `store_transition` takes samples."""
        return self.gate.collection_enabled

    @property
    def policy_version(self) -> int:
        """Updates of the policy so far."""
        return self.gate.policy_version

    @property
    def sync_batch_size(self) -> int:
        """Samples of the present round."""
        return self.gate.sync_batch_size

    @property
    def samples_collected_this_round(self) -> int:
        """Samples stored since the last update."""
        return self.gate.samples_collected_this_round

    @property
    def steps_learned(self) -> int:
        """Env steps at the last update."""
        return self.env_steps - self.samples_collected_this_round

    def enable_data_collection(self) -> None:
        """Let `store_transition` take samples."""
        self.gate.collection_enabled = True

    def disable_data_collection(self) -> None:
        """Make `store_transition` refuse samples."""
        self.gate.collection_enabled = False

    def should_sync_update(self) -> bool:
        """Whether the round is full."""
        return self.gate.due()

    @property
    def _coordinator_learns(self) -> bool:
        """Whether skills are chosen by the coordinator, and so its segments are kept."""
        return self.config.high_level == "coordinator"

    # --- collecting ---------------------------------------------------------------------------

    def observe(self, view: EnvView) -> TensorView:
        """Copy what the envs show to the networks' device."""
        return self.team.observe(view)

    def act(self, view: TensorView) -> Acting:
        """Choose skills where they are due, and every agent's action."""
        self._decide_where_due(view)
        acted = self.team.act(view)
        return Acting(
            action=acted.action,
            logp=acted.logp,
            team_skill=self.team.clock.team_skill,
            agent_skills=self.team.clock.agent_skills,
            actor_hidden=acted.hidden,
            restart=acted.restart,
            policy_version=self.policy_version,
            step=self.env_steps // self.config.num_envs,
        )

    def _decide_where_due(self, view: TensorView) -> None:
        decision = self.team.decide(view)
        if decision is not None and self._coordinator_learns:
            self.high_storage.open(decision, view, self.coordinator_version)

    def store_transition(self, view: TensorView, acting: Acting, step: EnvStep) -> bool:
        """Store one step of all envs, one sample per env.

        Args:
            view: what the team saw before it acted (`observe`).
            acting: what it did (`act`).
            step: what the envs answered.

        Returns:
            False, and nothing is stored, while data collection is disabled.

        Raises:
            StorageError: the round is full already, or this step was stored before.
        """
        if self.sync_mode and not self.collection_enabled:
            return False
        next_view = final = self.observe(step.view)
        if (step.terminated | step.truncated).any():  # elsewhere the two are equal
            final = self.observe(EnvView(step.final_obs, step.final_state))
        outcome = {name: torch.from_numpy(getattr(step, name)).clone() for name in OUTCOME}
        outcome["reward"] = outcome["reward"].to(self.team.dtype)
        outcome |= {"next_obs": final.obs, "next_state": final.state}
        self.low_storage.append(view, acting, outcome)
        terminated, ended = outcome["terminated"], outcome["terminated"] | outcome["truncated"]
        closing = self.team.advance(ended).nonzero().squeeze(-1)
        if self._coordinator_learns:
            self.high_storage.add_step(outcome["reward"], final.state)
            self.high_storage.close(
                closing, final.state, final.obs, terminated=terminated, ended=ended
            )
        if step.lost is not None:
            self.low_storage.discard(torch.from_numpy(step.lost).clone())
        self._next_view = next_view
        self.env_steps += self.config.num_envs
        self.gate.samples_collected_this_round += self.config.num_envs
        return True

    # --- learning -----------------------------------------------------------------------------

    def sync_update(self) -> dict[str, float]:
        """Close the gate, update all networks on the full round, count a version, open the gate.

        Raises:
            SyncError: the round is not full.
            StorageError: a row of the round comes from another policy version.
            TrainingError: a loss or gradient is not finite; that network is left unchanged.
        """
        metrics = self.gate.run(self.update)
        self._size_next_round()
        return metrics

    def _size_next_round(self) -> None:
        """Let the round that begins be as large as `batch_schedule` says."""
        size = next_batch_size(
            self.config, self.sync_batch_size, self.env_steps, self.discoverer.noise_scale.value
        )
        if size != self.sync_batch_size:
            self.gate.sync_batch_size = size
            self.low_storage.resize(size // self.config.num_envs)

    def update(self) -> dict[str, float]:
        """Update the networks on the full round; `sync_update` calls it and counts the version."""
        assert self._next_view is not None, "a full round has a last step"
        rollout = self.low_storage.rollout(self.policy_version)
        lost_here = self._forget_lost()
        lost, closed, living, *episodes = self.ranks.totals(
            lost_here,
            self.high_storage.num_closed,
            1.0 if rollout.alive is None else float(rollout.alive.sum()),
            *ended_and_won(rollout, self.low_storage.discarded),
        )
        self.wins.hear(*episodes)
        self.exploration.begin_or_end(self.env_steps)
        self._follow_wins()
        metrics = self._round_metrics(rollout, living)
        metrics["sync/discarded_samples"] = lost * self.low_storage.length
        metrics["Buffer/high_level_buffer_size"] = closed
        if closed >= self.exploration.segments_due:
            metrics |= self._update_coordinator(self._next_view)
        if self.config.low_level == "discoverer":
            metrics |= self._update_discoverer(rollout, self._next_view, living)
        numbers = read(metrics, self._learners)  # raises before anything else changes
        if "low/sharpness" in numbers:  # skills that pause keep theirs
            self.networks.actor.sharpness.fill_(self.wins.sharpness)
        self.low_storage.clear()
        self.high_storage.end_round()
        follow(self.played, self.networks, self.average.weigh(*self.wins.shares))
        return numbers

    def _follow_wins(self) -> None:
        """Let the size of steps, the weights of rewards and the skills' length follow the wins."""
        for learner in self._learners:
            learner.size_steps(self.wins.step_share)
        self.discriminators.pay(self.wins.extrinsic_coef, self.wins.intrinsic_share)
        self.coordinator.entropy_coef = self.wins.entropy_coef
        self.team.persistence = self.exploration.persistence

    def _update_discoverer(
        self, rollout: LowRollout, next_view: TensorView, living: float
    ) -> Metrics:
        """Reward, advantages and update of the low level, then the discriminators'."""
        # The round's last values are those under the skills of the next step, drawn here once.
        self._decide_where_due(next_view)
        passed = critic_pass(self.networks.critic, rollout, self._tail())
        self._keep_critic_hidden(passed.last_hidden)
        paused = self.exploration.pauses_skills(self.env_steps)
        if paused or living == 0:  # 0: every env was lost
            return {}
        parts = self.discriminators.rewards(rollout)
        weights = counting(rollout, self.device, self.team.dtype)
        metrics = reward_metrics(parts, weights, self.ranks)
        actor_batch, critic_batch = self.discoverer.prepare(rollout, parts.mixed, passed)
        if self.config.batch_schedule == "noise":
            chunks_and_envs = rollout.actor_hidden.shape[:2]
            metrics |= self.discoverer.measure_noise(actor_batch, *chunks_and_envs)
        metrics |= self.discoverer.update(actor_batch, critic_batch)
        metrics |= self.discriminators.update(rollout, self.generators["shuffle"])
        return metrics

    def _tail(self) -> RoundTail:
        """What the round's first and last values stand on."""
        clock = self.team.clock
        return RoundTail(
            self.critic_hidden, clock.team_skill, clock.agent_skills, self.team.restart
        )

    def _keep_critic_hidden(self, hidden: Tensor) -> None:
        """Remember where the next round's values go on."""
        self.critic_hidden = hidden

    def _forget_lost(self) -> float:
        """Leave out the envs that failed in this round: nobody learns from any of its steps.

        Returns:
            How many they are.
        """
        lost = self.low_storage.discarded
        if lost is None:
            return 0.0
        self.high_storage.discard(lost)
        self.team.clock.interrupt(lost)
        return float(lost.sum())

    def _update_coordinator(self, view: TensorView) -> Metrics:
        """Cut open segments, update, count a version; every env decides anew at its next step."""
        self.high_storage.cut(view)
        metrics = self._learn_from(self.high_storage.rollout(self.coordinator_version))
        self.team.clock.interrupt()
        self.coordinator_version += 1
        return metrics

    def _learn_from(self, segments: HighRollout) -> Metrics:
        """The coordinator's update on the closed segments, which are forgotten then."""
        metrics = self.explorer.learn(segments, self.env_steps, self.team.chooses_by_chance)
        self.high_storage.clear()
        self.team.chooses_by_chance = self.explorer.begin_or_end_survey()
        return metrics | segment_metrics(segments, self.ranks)

    def _round_metrics(self, rollout: LowRollout, living: float) -> Metrics:
        """What the round itself tells, before any update; living: 0 if every env was lost."""
        config = self.config
        versions = rollout.policy_version
        metrics: Metrics = {
            "Sync/BatchSize": float(self.sync_batch_size),
            "Sync/PolicyVersion": float(self.policy_version),
            "Buffer/SamplesCollected": float(self.samples_collected_this_round),
            "Buffer/low_level_buffer_size": float(self.low_storage.steps * config.num_envs),
            "sync/policy_lag": float((self.policy_version - versions).max()),
            "sync/coordinator_version": float(self.coordinator_version),
        }
        if self._coordinator_learns:
            metrics["high/explores"] = float(self.exploration.is_on)
        if living > 0:
            weights = counting(rollout, self.device, self.team.dtype)
            num_skills = config.num_team_skills, self.networks.coordinator.num_agent_skills
            metrics |= skill_metrics(rollout, num_skills, weights, self.ranks)
        return metrics

    # --- saving -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the agent needs to go on exactly, at any step."""
        novelty = self.explorer.novelty
        return {
            "networks": self.networks.state_dict(),
            "played": self.played.state_dict(),
            "played_weight": self.average.weight,
            "optimizers": {learner.name: learner.state_dict() for learner in self._learners},
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "gate": self.gate.state_dict(),
            "noise_scale": self.discoverer.noise_scale.state_dict(),
            "wins": self.wins.state_dict(),
            "exploration": self.exploration.state_dict(),
            "coordinator_version": self.coordinator_version,
            "env_steps": self.env_steps,
            "num_agents": self.num_agents,
            "team": self.team.state_dict(),
            "chooses_by_chance": self.team.chooses_by_chance,
            "critic_hidden": self.critic_hidden,
            "low_storage": self.low_storage.state_dict(),
            "high_storage": self.high_storage.state_dict(),
            **({} if novelty is None else {"novelty": novelty.state_dict()}),
            "discriminator_pairs": self.discriminators.history.state_dict(),
            "next_view": None if self._next_view is None else self._next_view._asdict(),
        }

    def load_state_dict(
        self, state: dict[str, Any], saved_settings: dict[str, Any] | None = None
    ) -> None:
        """Go on exactly from `state_dict`; the settings it was made with make errors clearer.

        Raises:
            CheckpointError: a parameter has another shape than this configuration asks for, or the
                random generators are another kind of device's.
        """
        checkpoint.check_generators(self.generators, state["generators"], self.config.device)
        checkpoint.load_module(
            "networks", self.networks, state["networks"], saved_settings, asdict(self.config)
        )
        self.played.load_state_dict(state["played"])
        self.average.weight = state["played_weight"]
        for learner in self._learners:
            learner.load_state_dict(state["optimizers"][learner.name])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        self.gate.load_state_dict(state["gate"])
        self.discoverer.noise_scale.load_state_dict(state["noise_scale"])
        self.wins.load_state_dict(state["wins"])
        self.exploration.load_state_dict(state["exploration"])
        self._follow_wins()
        self.coordinator_version = state["coordinator_version"]
        self.env_steps = state["env_steps"]
        self.team.load_state_dict(state["team"])
        self.team.chooses_by_chance = state["chooses_by_chance"]
        if self.explorer.novelty is not None and "novelty" in state:  # else all is new
            self.explorer.novelty.load_state_dict(state["novelty"])
        memory = checkpoint.on_device(state, self.device)
        self.critic_hidden = memory["critic_hidden"]
        self.low_storage.load_state_dict(memory["low_storage"])
        self.high_storage.load_state_dict(memory["high_storage"])
        self.discriminators.history.load_state_dict(memory["discriminator_pairs"])
        view = memory["next_view"]
        self._next_view = None if view is None else TensorView(**view)

    def save_model(self, path: Path | str, **more: Any) -> None:
        """Write everything to one verified file; `more` is stored beside the agent's state."""
        checkpoint.save(Path(path), {"agent": self.state_dict(), **more})

    def load_model(self, path: Path | str) -> dict[str, Any]:
        """Go on exactly from a file of `save_model`; returns all that the file holds.

        Raises:
            CheckpointError: the file is missing, damaged, or of another configuration.
        """
        content = checkpoint.load(Path(path))
        self.load_state_dict(content["agent"], content.get("config"))
        return content
