"""The gate: a full round, one update, one version more; nothing gets in or out in between."""

from __future__ import annotations

import pytest

from hmasd.sync import SyncError, SyncGate


def full_gate() -> SyncGate:
    gate = SyncGate(8)
    gate.samples_collected_this_round = 8
    return gate


def check_gate() -> None:
    gate, inside = full_gate(), []

    def update() -> dict[str, float]:
        inside.append((gate.collection_enabled, gate.policy_version))
        return {"loss": 1.0}

    assert gate.run(update) == {"loss": 1.0}
    assert inside == [(False, 0)], "the gate is closed, and the version old, during the update"
    assert gate.collection_enabled and gate.policy_version == 1
    assert gate.samples_collected_this_round == 0 and not gate.due()


def test_an_update_runs_behind_the_closed_gate_and_counts_a_version() -> None:
    check_gate()


def test_control_a_gate_that_stays_open_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: SyncGate, update):
        metrics = update()
        self.policy_version += 1
        self.samples_collected_this_round = 0
        return metrics

    monkeypatch.setattr(SyncGate, "run", run)
    with pytest.raises(AssertionError):
        check_gate()


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_a_half_full_round_is_refused_and_nothing_happens(samples: int) -> None:
    gate = SyncGate(8)
    gate.samples_collected_this_round = samples
    with pytest.raises(SyncError, match=f"full round of 8 samples, {samples} are collected"):
        gate.run(lambda: pytest.fail("the update ran"))
    assert gate.state_dict() == {
        **SyncGate(8).state_dict(),
        "samples_collected_this_round": samples,
    }


def test_the_gate_stays_closed_if_the_update_raises() -> None:
    """A half changed policy must not go on collecting under the old version."""
    gate = full_gate()

    def update() -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gate.run(update)
    assert not gate.collection_enabled
    assert gate.policy_version == 0 and gate.samples_collected_this_round == 8


def test_goes_on_exactly() -> None:
    gate, other = full_gate(), SyncGate(8)
    gate.policy_version = 5
    gate.collection_enabled = False
    other.load_state_dict(gate.state_dict())
    assert vars(other) == vars(gate)
    other.policy_version = 6
    assert gate.policy_version == 5
