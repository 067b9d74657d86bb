"""The round's memory: what goes in comes out, and what is not strictly on-policy is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hmasd.rollout.storage import RoundStorage, StorageError
from hmasd.types import Acting, TensorView

T, E, N, O, S, D, L = 4, 3, 2, 5, 6, 7, 2  # noqa: E741


def row(step: int, version: int = 0, **view: Any) -> tuple[TensorView, Acting, dict]:
    generator = torch.Generator().manual_seed(step)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def ints(*shape: int) -> torch.Tensor:
        return torch.randint(3, shape, generator=generator)

    seen = TensorView(floats(E, N, O), floats(E, S), view.get("action_mask"), view.get("alive"))
    acting = Acting(
        action=ints(E, N),
        logp=floats(E, N),
        team_skill=ints(E),
        agent_skills=ints(E, N),
        actor_hidden=floats(E, N, D),
        restart=ints(E) == 0,
        policy_version=version,
        step=step,
    )
    outcome = {
        "reward": floats(E),
        "terminated": ints(E) == 0,
        "truncated": ints(E) == 1,
        "success": ints(E) == 1,
        "next_obs": floats(E, N, O),
        "next_state": floats(E, S),
    }
    return seen, acting, outcome


def filled(first: int = 0, version: int = 0) -> RoundStorage:
    storage = RoundStorage(T, L)
    for step in range(first, first + T):
        storage.append(*row(step, version))
    return storage


def check_round_trip(storage: RoundStorage, first: int) -> None:
    rollout = storage.rollout(0)
    for t in range(T):
        view, acting, outcome = row(first + t)
        expected = {
            "obs": view.obs,
            "state": view.state,
            **{
                name: getattr(acting, name)
                for name in ("action", "logp", "team_skill", "agent_skills", "restart")
            },
            **outcome,
        }
        for name, value in expected.items():
            assert torch.equal(getattr(rollout, name)[t], value), (name, t)
        assert (rollout.policy_version[t] == 0).all()
        if t % L == 0:
            assert torch.equal(rollout.actor_hidden[t // L], acting.actor_hidden)
    assert rollout.actor_hidden.shape == (T // L, E, N, D)
    assert rollout.action_mask is None and rollout.alive is None


def test_every_field_of_every_row_comes_back() -> None:
    storage = filled()
    check_round_trip(storage, 0)
    storage.clear()
    for step in range(T, 2 * T):  # the memory of the round before is reused
        storage.append(*row(step))
    check_round_trip(storage, T)


def test_control_a_row_at_the_wrong_place_is_caught() -> None:
    storage = RoundStorage(T, L)
    for step in (1, 2, 3, 4):
        storage.append(*row(step))
    with pytest.raises(AssertionError):
        check_round_trip(storage, 0)


def test_rows_are_copies() -> None:
    """The clock's skills and the envs' arrays change in place at the next step."""
    storage = RoundStorage(T, L)
    for step in range(T):
        view, acting, outcome = row(step)
        storage.append(view, acting, outcome)
        for value in (view.obs, acting.team_skill, acting.actor_hidden, outcome["reward"]):
            value.fill_(99)
    check_round_trip(storage, 0)


def test_masks_and_life_are_stored_where_the_env_has_them() -> None:
    storage = RoundStorage(T, L)
    mask = torch.rand(E, N, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    alive = mask[:, :, 0]
    for step in range(T):
        storage.append(*row(step, action_mask=mask, alive=alive))
    rollout = storage.rollout(0)
    assert rollout.action_mask is not None and rollout.alive is not None
    assert (rollout.action_mask == mask).all() and (rollout.alive == alive).all()


def test_a_half_full_round_is_refused() -> None:
    storage = RoundStorage(T, L)
    for step in range(T - 1):
        storage.append(*row(step))
    with pytest.raises(StorageError, match=f"holds {T - 1} of {T} steps"):
        storage.rollout(0)


def test_an_empty_round_is_refused_after_clear() -> None:
    """Else the same samples would be learned from twice."""
    storage = filled()
    storage.clear()
    with pytest.raises(StorageError, match=f"holds 0 of {T} steps"):
        storage.rollout(0)


def test_overflow_is_refused_and_changes_nothing() -> None:
    storage = filled()
    with pytest.raises(StorageError, match="already holds its 4 steps"):
        storage.append(*row(T))
    check_round_trip(storage, 0)


def test_the_same_row_twice_is_refused_and_changes_nothing() -> None:
    storage = RoundStorage(T, L)
    storage.append(*row(0))
    storage.append(*row(1))
    for again in (0, 1):
        with pytest.raises(StorageError, match=f"lock-step {again} was stored before"):
            storage.append(*row(again))
    for step in (2, 3):
        storage.append(*row(step))
    check_round_trip(storage, 0)


def test_the_next_round_may_be_longer_and_a_begun_one_not() -> None:
    storage = filled()
    with pytest.raises(StorageError, match="holds 4 steps per env already"):
        storage.resize(2 * T)
    storage.clear()
    storage.resize(2 * T)
    for step in range(T, 3 * T):
        assert not storage.full
        storage.append(*row(step))
    rollout = storage.rollout(0)
    assert rollout.actor_hidden.shape[0] == 2 * T // L
    for t in range(2 * T):
        assert torch.equal(rollout.obs[t], row(T + t)[0].obs)
    assert torch.equal(rollout.actor_hidden[-1], row(3 * T - L)[1].actor_hidden)


def test_a_row_of_the_round_before_is_refused_after_clear_and_after_a_resume() -> None:
    """Forgetting the number of the last lock-step would let an old row in again."""
    storage = filled()
    storage.clear()
    other = RoundStorage(T, L)
    other.load_state_dict(storage.state_dict())
    for one in (storage, other):
        with pytest.raises(StorageError, match="was stored before"):
            one.append(*row(T - 1))
    forgetful = RoundStorage(T, L)  # the control: without it the row gets in
    forgetful.load_state_dict({**storage.state_dict(), "last_step": -1})
    forgetful.append(*row(T - 1))


@pytest.mark.parametrize("position", range(T))
def test_a_stale_row_is_refused_wherever_it_lies(position: int) -> None:
    storage = RoundStorage(T, L)
    for step in range(T):
        storage.append(*row(step, version=6 if step == position else 7))
    with pytest.raises(StorageError, match=r"policy versions \[6, 7\], the policy is at 7"):
        storage.rollout(7)


def test_a_round_of_another_version_is_refused() -> None:
    with pytest.raises(StorageError, match=r"versions \[7\], the policy is at 8"):
        filled(version=7).rollout(8)
    filled(version=7).rollout(7)


def test_a_cell_that_nobody_wrote_shows() -> None:
    """NaN and -1, so that it cannot pass for data."""
    storage = filled()
    storage.clear()
    for name, memory in storage.state_dict()["memory"].items():
        if memory.is_floating_point():
            assert memory.isnan().all(), name
        elif memory.dtype != torch.bool:
            assert (memory == -1).all(), name


def test_goes_on_exactly_in_the_middle_of_a_round() -> None:
    storage, other = RoundStorage(T, L), RoundStorage(T, L)
    for step in range(3):
        storage.append(*row(step))
    other.load_state_dict(storage.state_dict())
    storage.append(*row(99))  # the loaded memory is a copy
    other.append(*row(3))
    check_round_trip(other, 0)
