"""Stop 6, the discriminators: supervised learning of which skill led where (HMASD eq. 8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmasd.algorithm import losses
from hmasd.algorithm.intrinsic import chance_offset, log_odds, mix_rewards
from hmasd.algorithm.optimization import (
    Learner,
    Means,
    Metrics,
    Part,
    in_parts,
    slices,
    step_together,
    total_weight,
)
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device
from hmasd.modules.distributions import score_categorical
from hmasd.networks import IndividualDiscriminator, TeamDiscriminator
from hmasd.types import EnvShare, LowRollout, RewardParts

EVERY_ENV = EnvShare(0, 1, 1)


class PairHistory:
    """The latest (state, skill) pairs, as many as `num_rounds` rounds hold; oldest overwritten."""

    def __init__(self, num_rounds: int, share: EnvShare = EVERY_ENV) -> None:
        """`share`: of all ranks' envs, those whose pairs are added here; by default all are."""
        self.num_rounds = num_rounds
        self.share = share
        self.pairs_added = 0  # since the memory was laid out
        self._memory: dict[str, Tensor] = {}  # [num_rounds * T*E, ...] each

    @property
    def capacity(self) -> int:
        """Pairs that there is room for."""
        return len(self._memory["state"]) if self._memory else 0

    def add(self, rollout: LowRollout) -> None:
        """Store what every step of the round reached, under which skills."""
        pairs = {
            "state": rollout.next_state,
            "obs": rollout.next_obs,
            "state_before": rollout.state,
            "obs_before": rollout.obs,
            "team_skill": rollout.team_skill,
            "agent_skills": rollout.agent_skills,
        }
        if rollout.alive is not None or "alive" in self._memory:
            every = torch.ones_like(rollout.agent_skills, dtype=torch.bool)
            alive = rollout.alive
            pairs["alive"] = every if alive is None else to_device(alive, every.device)
        size, device = rollout.team_skill.numel(), rollout.team_skill.device
        capacity = self.num_rounds * size
        if self._memory and self.capacity != capacity:
            self._lay_out(capacity)
        place = torch.arange(self.pairs_added, self.pairs_added + size, device=device) % capacity
        for name, pair in pairs.items():
            rows = pair.flatten(0, 1)  # [T, E, ...] -> [T*E, ...]
            if name not in self._memory:
                self._memory[name] = _unwritten(name, rows, capacity)
            self._memory[name][place] = rows
        self.pairs_added += size

    def _lay_out(self, capacity: int) -> None:
        """Keep the latest pairs, oldest first, in memory for more of them or fewer."""
        held = self.capacity
        kept = min(self.pairs_added, held, capacity)
        latest = torch.arange(self.pairs_added - kept, self.pairs_added) % held
        for name, memory in self._memory.items():
            self._memory[name] = _unwritten(name, memory, capacity)
            self._memory[name][:kept] = memory[latest.to(memory.device)]
        self.pairs_added = kept

    def draw(self, generator: torch.Generator) -> Tensor | None:
        """Places of as many pairs as one round holds; None: all, if one round is all there is.

        The draw is among the pairs of all ranks; what it finds here is this rank's share of it.
        """
        if self.num_rounds == 1:
            return None
        stored, size = min(self.pairs_added, self.capacity), self.capacity // self.num_rounds
        device = self._memory["state"].device
        ranks = self.share.total // self.share.size
        index = torch.randint(stored * ranks, (size * ranks,), generator=generator, device=device)
        return self._here(index)

    def at(self, places: Tensor | None) -> dict[str, Tensor]:
        """The pairs at places [n]; None: all in order."""
        return {name: self._at(name, places) for name in self._memory}

    def _at(self, name: str, places: Tensor | None) -> Tensor:
        memory = self._memory[name]
        return memory if places is None else memory.index_select(0, places)

    def counts(self, places: Tensor | None, num_skills: tuple[int, int]) -> Tensor:
        """How many of the pairs at places count for each skill: [n_Z + n_z] float64.

        A step counts for its team skill where any agent lives, and for the skills of those living.
        """
        team, agents = self._at("team_skill", places), self._at("agent_skills", places)
        alive = self._at("alive", places) if "alive" in self._memory else torch.ones_like(agents)
        alive = alive.double()
        counts = alive.new_zeros(sum(num_skills))
        counts.scatter_add_(0, team, alive.amax(-1))
        return counts.scatter_add_(0, num_skills[0] + agents.flatten(), alive.flatten())

    def _here(self, index: Tensor) -> Tensor:
        """Of places among all ranks' pairs, those of this rank's, as places among its own."""
        first, size, total = self.share
        if size == total:
            return index
        step, env = index // total, index % total - first
        return (step * size + env)[(env >= 0) & (env < size)]

    def state_dict(self) -> dict[str, object]:
        """Everything needed to go on exactly."""
        return {"pairs_added": self.pairs_added, "memory": dict(self._memory)}

    def load_state_dict(self, state: dict) -> None:
        """Go on exactly from `state_dict`."""
        self.pairs_added = state["pairs_added"]
        self._memory = {name: memory.clone() for name, memory in state["memory"].items()}


def _unwritten(name: str, like: Tensor, capacity: int) -> Tensor:
    """[capacity, ...] for rows like these; of rounds that did not say who lives, all did."""
    return like.new_full((capacity, *like.shape[1:]), name == "alive")


class Weighing(NamedTuple):
    """What pairs count for a network."""

    of_skill: Tensor | None  # [n] what a pair of each skill weighs; None: all weigh 1
    total: float | None  # what all ranks' pairs weigh; None: nobody needs to know


class Discriminators:
    """q_D and q_d with their optimizers and the pairs they learn from."""

    def __init__(
        self,
        config: Config,
        team: TeamDiscriminator,
        individual: IndividualDiscriminator,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.team = team
        self.individual = individual
        self.pay(config.extrinsic_coef)
        # A discriminator whose reward has no weight is neither asked nor trained.
        self.team_counts = config.team_coef > 0
        self.individual_counts = config.individual_coef > 0
        self.history = PairHistory(config.discriminator_rounds, ranks.share(config.num_envs))
        self.team_learner = Learner("team discriminator", team, config, ranks)
        self.individual_learner = Learner("individual discriminator", individual, config, ranks)

    def pay(self, extrinsic_coef: float, intrinsic_share: float = 1.0) -> None:
        """Let λ_e be this from here on, and this share of λ_D and λ_d count."""
        self.extrinsic_coef = extrinsic_coef
        self.intrinsic_share = intrinsic_share

    @torch.no_grad()
    def certainty(self, rollout: LowRollout) -> tuple[Tensor, Tensor]:
        """How sure they are of the skills in force, by what a step reached; 0 if not asked.

        Returns:
            log q_D(Z | s_{t+1}) [T, E], and log q_d(z^i | o^i_{t+1}, Z) or its log-odds [T, E, N].
        """
        individual = torch.zeros_like(rollout.logp)
        team = individual[..., 0].clone()
        if self.team_counts:
            team = score_categorical(self.team(rollout.next_state), rollout.team_skill).logp
        if self.individual_counts:
            skills, chosen = rollout.team_skill.unsqueeze(-1), rollout.agent_skills
            logits = self.individual(rollout.next_obs, skills.expand_as(chosen))
            if self.config.individual_reward == "log_odds":
                individual = log_odds(logits, chosen)
            else:
                individual = score_categorical(logits, chosen).logp
        return team, individual

    def rewards(self, rollout: LowRollout) -> RewardParts:
        """The discoverer's reward in every step (HMASD eq. 4)."""
        config, device = self.config, rollout.logp.device
        team, individual = self.certainty(rollout)
        offset, kind = config.intrinsic_offset, config.individual_reward
        team += chance_offset(offset, config.num_team_skills)
        if self.individual_counts:
            individual += chance_offset(offset, config.num_agent_skills, kind)
        if rollout.alive is not None:  # what a dead agent sees tells nothing of its skill
            individual *= to_device(rollout.alive, device)
        return mix_rewards(
            to_device(rollout.reward, device),
            team,
            individual,
            extrinsic_coef=self.extrinsic_coef,
            team_coef=self.intrinsic_share * config.team_coef,
            individual_coef=self.intrinsic_share * config.individual_coef,
        )

    def update(self, rollout: LowRollout, generator: torch.Generator) -> Metrics:
        """All gradient steps of one round; returns the metrics `disc/...` of those trained."""
        if not (self.team_counts or self.individual_counts):
            return {}
        self.history.add(rollout)
        metrics: Metrics = {}
        means = Means(*self._metric_names(), ranks=self.ranks)
        draws = [self.history.draw(generator) for _ in range(self.config.discriminator_epochs)]
        for draw, of_team, of_agents in zip(draws, *self._weighing(draws), strict=True):
            pairs, steps = self.history.at(draw), []
            if self.team_counts:
                steps += [(self.team_learner, self._team_losses(pairs, means, of_team))]
            if self.individual_counts:
                found = self._individual_losses(pairs, means, of_agents)
                steps += [(self.individual_learner, found)]
            step_together(*steps)
        if self.team_counts:
            metrics["disc/team_grad_norm"] = self.team_learner.mean_norm()
            metrics["disc/team_chance"] = 1 / self.config.num_team_skills
        if self.individual_counts:
            metrics["disc/individual_grad_norm"] = self.individual_learner.mean_norm()
            metrics["disc/individual_chance"] = 1 / self.config.num_agent_skills
        return metrics | means.result("disc")

    def _parts(
        self, pairs: dict[str, Tensor], skill: str, weighing: Weighing
    ) -> list[Part[dict[str, Tensor]]]:
        """The pairs as they go through a network, each with what it weighs."""
        dtype, weight = pairs["obs"].dtype, None
        if weighing.of_skill is not None:
            weight = weighing.of_skill.to(dtype)[pairs[skill]]
        if "alive" in pairs:  # a step counts for the team if any agent lives
            alive = pairs["alive"].to(dtype)
            alive = alive.amax(-1) if skill == "team_skill" else alive
            weight = alive if weight is None else weight * alive
        if weight is not None:
            pairs = {**pairs, "weight": weight}
        cut = (
            {name: x[rows] for name, x in pairs.items()}
            for rows in slices(len(pairs[skill]), self.config.samples_at_once)
        )
        weighed = ((part, total_weight(part.get("weight"), part[skill])) for part in cut)
        return in_parts(weighed, self.ranks, weighing.total)

    def _weighing(self, draws: list[Tensor | None]) -> list[list[Weighing]]:
        """What the pairs of each draw weigh for the team's network, and for the individuals'."""
        balance, alone = self.config.discriminator_balance, self.ranks.world_size == 1
        if alone and not balance:
            return [[Weighing(None, None)] * len(draws)] * 2
        num_skills = self.config.num_team_skills, self.config.num_agent_skills
        counts = torch.stack([self.history.counts(draw, num_skills) for draw in draws])
        found = []
        for of_kind in self.ranks.sum(counts).split(num_skills, dim=-1):
            weights = losses.balance(of_kind) if balance else torch.ones_like(of_kind)
            # Alone nobody needs the totals, and to ask the device for them would be to wait for it.
            totals = [None] * len(draws) if alone else (of_kind * weights).sum(-1).tolist()
            of_skill = weights if balance else [None] * len(draws)
            found.append([Weighing(*pair) for pair in zip(of_skill, totals, strict=True)])
        return found

    def _metric_names(self) -> list[str]:
        trained = ("team", self.team_counts), ("individual", self.individual_counts)
        kinds = ("loss", "accuracy", "roughness")
        return [f"{name}_{kind}" for name, counts in trained if counts for kind in kinds]

    def _team_losses(
        self, pairs: dict[str, Tensor], means: Means, weighing: Weighing
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part and its share; notes what it is made of."""
        for part, weight, share in self._parts(pairs, "team_skill", weighing):
            logits, roughness = self._score(self.team, part, "state", ())
            team = losses.skill_loss(logits, part["team_skill"], part.get("weight"))
            yield team.loss + roughness, share
            means.add(
                weight, team_loss=team.loss, team_accuracy=team.accuracy, team_roughness=roughness
            )

    def _individual_losses(
        self, pairs: dict[str, Tensor], means: Means, weighing: Weighing
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part and its share; notes what it is made of."""
        for part, weight, share in self._parts(pairs, "agent_skills", weighing):
            skills = part["team_skill"].unsqueeze(-1).expand_as(part["agent_skills"])
            logits, roughness = self._score(self.individual, part, "obs", (skills,))
            individual = losses.skill_loss(logits, part["agent_skills"], part.get("weight"))
            yield individual.loss + roughness, share
            means.add(
                weight,
                individual_loss=individual.loss,
                individual_accuracy=individual.accuracy,
                individual_roughness=roughness,
            )

    def _score(
        self,
        network: nn.Module,
        pairs: dict[str, Tensor],
        seen: str,
        context: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """Logits of what a step reached, and the penalty on how much the step changed them."""
        limit = self.config.discriminator_smoothness
        if limit == 0:
            logits = network(pairs[seen], *context)
            return logits, logits.new_zeros(())
        both = torch.stack([pairs[f"{seen}_before"], pairs[seen]])
        logits = network(both, *(x.expand(2, *x.shape) for x in context))
        return logits[1], losses.smoothness_penalty(logits, limit, pairs.get("weight"))
