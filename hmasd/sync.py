"""Stop 7, the synchronous gate: collect a full round, stop, update, count a version, go on."""

from __future__ import annotations

from collections.abc import Callable


class SyncError(RuntimeError):
    """An update was asked for that would not be strictly on-policy."""


class SyncGate:
    """Counts samples and versions; no samples during updates, no updates before a full round."""

    def __init__(self, batch_size: int) -> None:
        """`batch_size`: samples of one round, one sample being one step of one env."""
        self.sync_mode = True
        self.collection_enabled = True
        self.policy_version = 0
        self.sync_batch_size = batch_size
        self.samples_collected_this_round = 0

    def due(self) -> bool:
        """Whether the round is full."""
        return self.samples_collected_this_round >= self.sync_batch_size

    def run(self, update: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Update behind the closed gate, then count the new version and open the gate.

        If the update raises, the gate stays closed: what was collected belongs to a policy that
        may be half changed.

        Raises:
            SyncError: the round is not full.
        """
        if not self.due():
            raise SyncError(
                f"sync_update() needs a full round of {self.sync_batch_size} samples, "
                f"{self.samples_collected_this_round} are collected"
            )
        self.collection_enabled = False
        metrics = update()
        self.policy_version += 1
        self.samples_collected_this_round = 0
        self.collection_enabled = True
        return metrics

    def state_dict(self) -> dict[str, int | bool]:
        """Everything needed to go on exactly."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on exactly from `state_dict`."""
        vars(self).update(state)
