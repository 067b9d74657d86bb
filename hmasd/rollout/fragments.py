"""The memory of asynchronous training: fragments of each env's steps that outlive updates.

The synchronous round lives in `hmasd.rollout.storage`; nothing here is used by it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hmasd.rollout.storage import RoundStorage, StorageError, row_of
from hmasd.types import Acting, LowRollout, TensorView


class FragmentStorage(RoundStorage):
    """Each env fills a fragment of L steps, one env out of step with the next; B of them are used.

    Env e starts its fragments e L / E lock-steps before env 0 does, so the envs finish one after
    the other, as envs do that run on their own. What an env did before its first whole fragment is
    not learned from. A finished fragment waits until B are there; the others go on filling while
    the policy changes, so their rows carry several versions.
    """

    def __init__(self, num_envs: int, length: int, num_fragments: int) -> None:
        """`length`: L steps of a fragment; `num_fragments`: B of one update."""
        super().__init__(length, length)
        self.num_fragments = num_fragments
        self._offset = torch.arange(num_envs) * length // num_envs  # [E]
        self._waiting: list[dict[str, Tensor]] = []

    @property
    def waiting_samples(self) -> int:
        """Samples in finished fragments that no update has used."""
        return len(self._waiting) * self.length

    @property
    def envs(self) -> Tensor:
        """Envs of the next update's fragments: [B] int64."""
        return self._taken("env")

    def append(self, view: TensorView, acting: Acting, outcome: dict[str, Tensor]) -> None:
        """Write one lock-step of all envs over the one L lock-steps ago; see `RoundStorage`.

        Raises:
            StorageError: this lock-step has been stored already.
        """
        self._refuse_a_step_twice(acting.step)
        row = row_of(view, acting, outcome) | {"actor_hidden": acting.actor_hidden}
        self._write(row, self.steps % self.length, self.length)
        self.steps += 1

    def discard(self, lost: Tensor) -> None:
        """Refuse to leave out envs: updates may have learned from their steps already.

        Raises:
            StorageError: always.
        """
        envs = lost.nonzero().flatten().tolist()
        raise StorageError(
            f"envs {envs} failed, and asynchronous training cannot leave their steps out: train "
            "with sync_mode = True"
        )

    def finish(self, following: dict[str, Tensor]) -> None:
        """Set the fragments aside that the last lock-step finished.

        Args:
            following: team_skill [E], agent_skills [E, N] and restart [E] of the next step, from
                which a fragment's last value bootstraps.
        """
        if self.steps < self.length:
            return
        order = (torch.arange(self.length) + self.steps) % self.length  # oldest row first
        for env in ((self.steps + self._offset) % self.length == 0).nonzero().flatten().tolist():
            fragment = {name: rows[order, env] for name, rows in self._memory.items()}
            fragment["actor_hidden"] = fragment["actor_hidden"][:1]
            fragment |= {f"following_{name}": x[env].clone() for name, x in following.items()}
            fragment["env"] = torch.tensor(env)
            self._waiting.append(fragment)

    def following(self, name: str) -> Tensor:
        """What was handed to `finish` for the next update's fragments: [B, ...]."""
        return self._taken(f"following_{name}")

    def rollout(self, policy_version: int) -> LowRollout:
        """The first B fragments [L, B, ...], whatever versions made them.

        Raises:
            StorageError: fewer have been finished, or a row is newer than the policy.
        """
        if len(self._waiting) < self.num_fragments:
            raise StorageError(
                f"{len(self._waiting)} fragments are finished, an update needs {self.num_fragments}"
            )
        names = [name for name in LowRollout._fields if name in self._waiting[0]]
        fields: dict[str, Any] = {"action_mask": None, "alive": None}
        fields |= {name: self._taken(name, axis=1) for name in names}
        rollout = LowRollout(**fields)
        if int(rollout.policy_version.max()) > policy_version:
            raise StorageError(f"a row is newer than the policy's version {policy_version}")
        return rollout

    def _taken(self, name: str, axis: int = 0) -> Tensor:
        return torch.stack([x[name] for x in self._waiting[: self.num_fragments]], dim=axis)

    def clear(self) -> None:
        """Forget the fragments of the update; all else stays."""
        del self._waiting[: self.num_fragments]

    def state_dict(self) -> dict[str, object]:
        """Everything needed to go on exactly."""
        return super().state_dict() | {"waiting": [dict(fragment) for fragment in self._waiting]}

    def load_state_dict(self, state: dict) -> None:
        """Go on exactly from `state_dict`."""
        super().load_state_dict(state)
        self._waiting = [dict(fragment) for fragment in state["waiting"]]
