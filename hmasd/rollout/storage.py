"""Stop 3: the memory of one round, written in place, and what may not be written into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hmasd.types import Acting, LowRollout, TensorView


class StorageError(RuntimeError):
    """A row that would break "every sample of an update comes from one policy version"."""


class RoundStorage:
    """Memory of the low level's round `[T, E, ...]`; rows come in order of time, one per lock-step.

    Cleared floats are NaN and cleared versions -1, so that a cell that nobody wrote shows.
    """

    def __init__(self, length: int, chunk_length: int) -> None:
        self.length = length
        self.chunk_length = chunk_length
        self.steps = 0
        self._last_step = -1
        self._memory: dict[str, Tensor] = {}
        self._rows: list[dict[str, Tensor]] | None = None  # views of the memory, one per step
        self._discarded: Tensor | None = None  # [E] bool

    @property
    def full(self) -> bool:
        """Whether every row of the round has been written."""
        return self.steps == self.length

    def append(
        self,
        view: TensorView,
        acting: Acting,
        outcome: dict[str, Tensor],
    ) -> None:
        """Write one lock-step of all envs, each field where `LowRollout` wants it.

        Args:
            view: what the team saw.
            acting: what it did.
            outcome: reward, terminated, truncated, success [E], next_obs [E, N, O],
                next_state [E, S].

        Raises:
            StorageError: the round is full, or this lock-step has been stored already.
        """
        if self.full:
            raise StorageError(
                f"the round already holds its {self.length} steps per env: call sync_update() "
                "before storing more"
            )
        self._refuse_a_step_twice(acting.step)
        self._write_row(row_of(view, acting, outcome))
        if self.steps % self.chunk_length == 0:
            chunk = self.steps // self.chunk_length
            num_chunks = self.length // self.chunk_length
            self._write({"actor_hidden": acting.actor_hidden}, chunk, num_chunks)
        self.steps += 1

    def _refuse_a_step_twice(self, step: int) -> None:
        if step <= self._last_step:
            raise StorageError(
                f"lock-step {step} was stored before (last: {self._last_step}): every step of "
                "the envs may be stored once"
            )
        self._last_step = step

    def resize(self, length: int) -> None:
        """Let the round that begins have another length, in steps per env.

        Raises:
            StorageError: the round has begun.
        """
        if self.steps > 0:
            raise StorageError(
                f"the round holds {self.steps} steps per env already: its length changes between "
                "rounds only"
            )
        self.length = length
        self._memory = {}
        self._rows = None

    def discard(self, lost: Tensor) -> None:
        """Let nobody learn from this round of some envs; lost: [E] bool on the host."""
        self._discarded = lost if self._discarded is None else self._discarded | lost

    @property
    def discarded(self) -> Tensor | None:
        """[E] bool on the host, the envs whose round does not count; None: every env's does."""
        return self._discarded

    def _write_row(self, row: dict[str, Tensor]) -> None:
        if self._rows is None or self._rows[0].keys() != row.keys():
            self._write(row, self.steps, self.length)
            self._rows = [
                {name: memory[step] for name, memory in self._memory.items() if name in row}
                for step in range(self.length)
            ]
            return
        for name, place in self._rows[self.steps].items():
            place.copy_(row[name])

    def _write(self, row: dict[str, Tensor], index: int, length: int) -> None:
        for name, value in row.items():
            if name not in self._memory:
                self._memory[name] = _blank(value.new_empty(length, *value.shape))
            self._memory[name][index] = value

    def rollout(self, policy_version: int) -> LowRollout:
        """The full round.

        Raises:
            StorageError: the round is not full, or holds a row of another policy version.
        """
        if not self.full:
            raise StorageError(
                f"the round holds {self.steps} of {self.length} steps per env: an update needs "
                "a full round"
            )
        versions = self._memory["policy_version"]
        if bool((versions != policy_version).any()):
            found = sorted(set(versions.flatten().tolist()))
            raise StorageError(
                f"the round holds rows of policy versions {found}, the policy is at "
                f"{policy_version}: stale rows cannot be trained on"
            )
        fields: dict[str, Any] = {"action_mask": None, "alive": None, **self._memory}
        if self._discarded is not None:  # whoever does not live counts nowhere
            kept = (~self._discarded)[:, None].expand_as(fields["agent_skills"])
            fields["alive"] = kept if fields["alive"] is None else fields["alive"] & kept
        return LowRollout(**fields)

    def clear(self) -> None:
        """Empty the round; the memory stays."""
        self.steps = 0
        self._discarded = None
        for memory in self._memory.values():
            _blank(memory)

    def state_dict(self) -> dict[str, object]:
        """Everything needed to go on exactly, in the middle of a round too."""
        return {
            "length": self.length,
            "steps": self.steps,
            "last_step": self._last_step,
            "memory": dict(self._memory),
            "discarded": self._discarded,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on exactly from `state_dict`."""
        self.length = state["length"]
        self.steps = state["steps"]
        self._last_step = state["last_step"]
        self._memory = {name: memory.clone() for name, memory in state["memory"].items()}
        self._rows = None
        self._discarded = state["discarded"]


def row_of(view: TensorView, acting: Acting, outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    """One lock-step of all envs as it is stored, [E, ...] each."""
    row = {
        "obs": view.obs,
        "state": view.state,
        "action": acting.action,
        "logp": acting.logp,
        "team_skill": acting.team_skill,
        "agent_skills": acting.agent_skills,
        "restart": acting.restart,
        "policy_version": torch.full(acting.restart.shape, acting.policy_version),
        **outcome,
    }
    optional = (("action_mask", view.action_mask), ("alive", view.alive))
    return row | {name: value for name, value in optional if value is not None}


def _blank(memory: Tensor) -> Tensor:
    """Fill with what no real row holds: NaN, or -1 for integers."""
    if memory.is_floating_point():
        return memory.fill_(float("nan"))
    return memory.fill_(False) if memory.dtype == torch.bool else memory.fill_(-1)
