"""Stop 3, high level: segments from a decision to the next, open ones and closed ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hmasd.kernels.transfer import to_device
from hmasd.rollout.storage import StorageError
from hmasd.types import Decision, HighRollout, TensorView


class SegmentStorage:
    """One open segment per env, and the closed ones that the coordinator's next update will use.

    A segment is closed after k steps, at the end of its episode, or at the coordinator's update.
    """

    def __init__(self, num_envs: int, step_discount: float, longest: int) -> None:
        """No segment yet.

        Args:
            num_envs: E.
            step_discount: 1 for the paper's plain sum of rewards, γ for the discounted one.
            longest: steps of a segment that nothing cuts short, and whose skills do not persist.
        """
        self.num_envs = num_envs
        self.longest = longest
        self.step_discount = step_discount
        self.num_closed = 0
        self._closed_before = 0  # segments closed in earlier rounds
        self._open: dict[str, Tensor] = {}  # [E, ...] each
        self._last_mean = torch.zeros(0)  # [E, S] of the last closed segment
        self._is_first = torch.ones(num_envs, dtype=torch.bool)  # [E] the next one of its episode
        self._closed: list[HighRollout] = []

    def open(self, decision: Decision, view: TensorView, coordinator_version: int) -> None:
        """Start the segments of a decision; view: what the coordinator saw, of all envs."""
        envs, team_skill, agent_skills, logp, mask = decision
        at = _everywhere(envs, logp.device)
        index = at[logp.device]
        if not self._open:
            self._last_mean = torch.zeros_like(view.state)
        is_first = self._is_first[envs]
        begins = to_device(is_first.unsqueeze(-1), logp.device)
        alive = torch.ones(agent_skills.shape, dtype=torch.bool)
        decided = {
            "state": view.state[index],
            "obs": view.obs[index],
            "team_skill": team_skill,
            "agent_skills": agent_skills,
            "logp": logp,
            "reward": torch.zeros(len(envs), dtype=logp.dtype),
            "length": torch.zeros_like(envs),
            "coordinator_version": torch.full_like(envs, coordinator_version),
            "alive": alive if view.alive is None else view.alive[envs],
            "mean_state": torch.zeros_like(view.state[index]),  # the sum, while it is open
            "mean_before": torch.where(begins, view.state[index], self._last_mean[index]),
            "is_first": is_first,
        }
        if mask is not None:
            decided["mask"] = mask
        for name, value in decided.items():
            if name not in self._open:
                self._open[name] = value.new_zeros(self.num_envs, *value.shape[1:])
            self._open[name][at[value.device]] = value

    def add_step(self, reward: Tensor, state: Tensor) -> None:
        """Add one step to the open segments: its team reward [E], on the host, and where it led.

        Args:
            reward: [E] on the host.
            state: [E, S] reached, of the same episode.
        """
        length = self._open["length"]
        if self.step_discount != 1:
            reward = reward * self.step_discount**length
        self._open["reward"] += reward
        self._open["mean_state"] += state
        length += 1

    def close(
        self,
        envs: Tensor,
        next_state: Tensor,
        next_obs: Tensor,
        *,
        terminated: Tensor,
        ended: Tensor,
        cut: bool = False,
    ) -> None:
        """Close the open segments of some envs.

        Args:
            envs: [n] int64 on the host.
            next_state: [E, S] reached, of the same episode.
            next_obs: [E, N, O] likewise.
            terminated: [E] bool on the host, what follows is worth 0.
            ended: [E] bool on the host, the env's next segment does not continue this one.
            cut: whether the coordinator's update closes them.
        """
        if len(envs) == 0:
            return
        at = _everywhere(envs, next_state.device)
        opened = {name: value[at[value.device]] for name, value in self._open.items()}
        steps = to_device(opened["length"].unsqueeze(-1), next_state.device, next_state.dtype)
        # Over as many states as in any other segment: a mean of few would seem rare.
        opened["mean_state"] += (self.longest - steps).clamp(min=0) * opened["mean_before"]
        opened["mean_state"] /= steps.clamp(min=self.longest)
        self._last_mean[at[next_state.device]] = opened["mean_state"]
        self._is_first[envs] = ended[envs] & (not cut)
        self._closed.append(
            HighRollout(
                env=envs,
                terminated=terminated[envs],
                ended=ended[envs],
                cut=torch.full_like(ended[envs], cut),
                next_state=next_state[at[next_state.device]],
                next_obs=next_obs[at[next_state.device]],
                **opened,
            )
        )
        self.num_closed += len(envs)
        self._open["length"][envs] = 0

    def cut(self, view: TensorView) -> None:
        """Close whatever is open as a truncation: the coordinator is about to change."""
        if not self._open:
            return
        envs = self._open["length"].nonzero().squeeze(-1)
        every = torch.ones_like(self._open["length"], dtype=torch.bool)
        self.close(envs, view.state, view.obs, terminated=~every, ended=every, cut=True)

    def closed(self) -> HighRollout:
        """All closed segments, whoever decided them; of several ranks one may have none.

        Raises:
            StorageError: nothing was ever decided here.
        """
        if not self._open:
            raise StorageError("no closed segment to train the coordinator on")
        return _join(self._closed or [self._nothing()])

    def _nothing(self) -> HighRollout:
        """No segment, in the columns of those to come."""
        opened = {name: value[:0] for name, value in self._open.items()}
        none = opened["length"].bool()
        return HighRollout(
            env=opened["length"],
            terminated=none,
            ended=none,
            cut=none,
            next_state=opened["state"],
            next_obs=opened["obs"],
            **opened,
        )

    def rollout(self, coordinator_version: int) -> HighRollout:
        """All closed segments.

        Raises:
            StorageError: there is none, or one was decided by another version.
        """
        segments = self.closed()
        if bool((segments.coordinator_version != coordinator_version).any()):
            found = sorted(set(segments.coordinator_version.tolist()))
            raise StorageError(
                f"segments of coordinator versions {found}, the coordinator is at "
                f"{coordinator_version}: stale segments cannot be trained on"
            )
        return segments

    def discard(self, lost: Tensor) -> None:
        """Forget what some envs did in this round; lost: [E] bool on the host.

        Their open segments go, and those that closed since `end_round`. What they closed in earlier
        rounds stays, and is bootstrapped where it breaks off.
        """
        if not self._open:  # nothing was ever decided
            return
        self._open["length"][lost] = 0
        self._is_first |= lost
        if not self._closed:
            return
        segments = _join(self._closed)
        number = torch.arange(len(segments.env))
        keep = (number < self._closed_before) | ~lost[segments.env]
        at = _everywhere(keep.nonzero().squeeze(-1), segments.state.device)
        kept: list[Any] = [
            None if column is None else column[at[column.device]] for column in segments
        ]
        segments = HighRollout(*kept)
        for env in lost.nonzero():
            segments.ended[(segments.env == env).nonzero()[-1:]] = True
        self._closed = [segments]
        self.num_closed = len(segments.env)

    def end_round(self) -> None:
        """From here on, closed segments belong to the next round."""
        self._closed_before = self.num_closed

    def clear(self) -> None:
        """Forget the closed segments."""
        self._closed = []
        self.num_closed = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly, in the middle of a segment too."""
        return {
            "open": dict(self._open),
            "before": {"mean_before": self._last_mean, "is_first": self._is_first},
            "closed": [
                {name: value for name, value in segments._asdict().items() if value is not None}
                for segments in self._closed
            ],
            "closed_before": self._closed_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly from `state_dict`."""
        self._open = {name: value.clone() for name, value in state["open"].items()}
        self._last_mean = state["before"]["mean_before"].clone()
        self._is_first = state["before"]["is_first"].clone()
        self._closed = [HighRollout(**segments) for segments in state["closed"]]
        self.num_closed = sum(len(segments.env) for segments in self._closed)
        self._closed_before = state["closed_before"]


def _everywhere(index: Tensor, device: torch.device) -> dict[torch.device, Tensor]:
    """An index by the device of what it is to pick from: on the host, and a copy on another one."""
    return {device: to_device(index, device), index.device: index}


def _join(parts: list[HighRollout]) -> HighRollout:
    """All segments, in the order in which they closed."""
    columns = zip(*parts, strict=True)
    joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
    return HighRollout(*joined)
