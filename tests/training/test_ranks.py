"""Several processes learn what one does: real processes, several rounds, float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from hmasd.config import Config
from tests.helpers.ranks import failures, run_ranks
from tests.helpers.runs import differences, leaves

SMALL = Config(
    env="alice_and_bob",
    num_envs=4,
    batch_size=48,
    total_steps=4 * 48,
    episode_length=9,
    skill_interval=4,
    num_agent_skills=3,
    hidden_size=8,
    coordinator_epochs=2,
    discoverer_epochs=2,
    discriminator_epochs=2,
    discriminator_rounds=3,
    high_level_batch_size=16,
    chunk_length=4,
    learning_rate=3e-3,
    extrinsic_coef=0.5,
    eval_interval=0,
    checkpoint_interval=0,
    compare_interval=1,
)


def trained(tmp_path: Path, world_size: int, **changes: Any) -> dict[str, Any]:
    how = {name: changes.pop(name) for name in ("fault", "dtype") if name in changes}
    folder = tmp_path / f"{world_size}{len(list(tmp_path.iterdir()))}"
    config = dataclasses.replace(SMALL, output_dir=str(folder), **changes)
    return run_ranks(config, world_size, **how)


def env_by_env(content: dict[str, Any]) -> dict[str, Any]:
    """An agent's state with its closed segments in the order of envs, each's in order of time."""
    agent = content["agent"]
    closed = agent["high_storage"]["closed"]
    joined = {name: torch.cat([rows[name] for rows in closed]) for name in (closed or [{}])[0]}
    order = torch.argsort(joined["env"], stable=True) if joined else None
    ordered = {name: x[order] for name, x in joined.items()}
    return {**agent, "high_storage": {**agent["high_storage"], "closed": ordered}}


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two runs' agents: parameters, moments, memory, how much is won."""
    left, right = dict(leaves(env_by_env(one))), dict(leaves(env_by_env(other)))
    assert left.keys() == right.keys()
    apart = [0.0]
    for path, x in left.items():
        if isinstance(x, torch.Tensor):
            assert x.shape == right[path].shape, path
            apart.append(float((x.double() - right[path].double()).nan_to_num().abs().max()))
        elif isinstance(x, float):
            apart.append(abs(x - right[path]))
    return max(apart)


@pytest.mark.parametrize("fault", ["", "by sockets"])
def test_two_ranks_learn_what_one_does(tmp_path: Path, fault: str) -> None:
    """Envs, choices, minibatches and updates are the same; the order of additions is not."""
    one, two = trained(tmp_path, 1), trained(tmp_path, 2, fault=fault)
    assert one["agent"]["coordinator_version"] >= 1
    assert furthest(one, two) < 1e-9
    assert two["episodes"] == one["episodes"]


@pytest.mark.parametrize(
    ("env", "num_rounds", "wins", "surveys"),  # another after chance's while nothing is won
    [("tests.helpers.single_envs:Walk", 8, True, 1), (SMALL.env, 10, False, 2)],
)
def test_three_ranks_do_with_all_that_is_decided_on_their_numbers(
    tmp_path: Path, env: str, num_rounds: int, wins: bool, surveys: int
) -> None:
    """The round's growth, slices, the novelty of states, and episodes that end out of step."""
    changes = {
        "env": env,
        "num_envs": 6,
        "batch_size": 72,
        "total_steps": num_rounds * 72,
        "batch_schedule": "noise",
        "max_batch_factor": 2,
        "samples_at_once": 16,
        "exploration_start": 4 * 72,
        "exploration_batch_size": 12,
        "survey_interval": 2,
        "extrinsic_coef": 0.0,  # so the skills pause, from the fourth round on
        "high_level_batch_size": 24,
    }
    one, three = (trained(tmp_path, ranks, **changes) for ranks in (1, 3))
    assert one["agent"]["coordinator_version"] >= 2
    assert (one["agent"]["wins"]["success"] > 0) == wins
    assert len(one["agent"]["novelty"]["surveys"]) == surveys
    assert furthest(one, three) < 1e-9
    assert three["episodes"] == one["episodes"]


def test_a_rank_without_envs_has_no_segments(tmp_path: Path) -> None:
    """Its one env fails in the first round, whose samples all others' updates do without."""
    changes = {
        "env": "tests.helpers.faulty_envs:Faulty",
        "env_args": "{fault: exit, env: 1}",
        "seed": 3,
        "num_envs": 2,
        "batch_size": 24,
        "total_steps": 3 * 24,
        "episode_length": 20,
        "env_workers": 1,
        "env_restarts": 1,
        "high_level_batch_size": 1,
        "skill_persistence": 0.0,  # every round closes a segment
    }
    assert trained(tmp_path, 2, **changes)["agent"]["coordinator_version"] == 3


def test_a_rank_that_raises_tells_the_others_why(tmp_path: Path) -> None:
    own, other = reversed(failed(tmp_path, fault="one rank raises"))
    assert "ValueError: the reactor melted" in own
    assert "rank 1 failed ValueError: the reactor melted" in other


def test_without_adding_up_gradients_the_ranks_part(tmp_path: Path) -> None:
    """Control: every rank learns from its own samples; the comparison of parameters tells."""
    told = failed(tmp_path, fault="gradients are not added up")
    assert all("parameters of rank 1 differ from those of rank 0" in x for x in told), told


@pytest.mark.parametrize("fault", ["one rank goes astray", "what one rank plays goes astray"])
def test_a_rank_that_goes_astray_stops_the_run(tmp_path: Path, fault: str) -> None:
    """In learning, and only in the average that it plays: nothing that learns follows the wins."""
    told = failed(tmp_path, fault=fault)
    assert all("parameters of rank 1 differ from those of rank 0" in x for x in told), told


def failed(tmp_path: Path, **how: Any) -> list[str]:
    """What the two ranks of a run say at its early end."""
    quiet = {"winning_step": 1.0, "losing_entropy": 1.0, "exploration_start": 0}
    quiet |= {"winning_sharpness": 1.0, "winning_extrinsic_coef": 0.0, "winning_intrinsic": 1.0}
    return failures(dataclasses.replace(SMALL, output_dir=str(tmp_path), **quiet), 2, **how)


@pytest.mark.parametrize("total_steps", [pytest.param(48, marks=pytest.mark.slow), 132])
def test_as_many_ranks_go_on_bit_for_bit(tmp_path: Path, total_steps: int) -> None:
    """From a checkpoint between two rounds, and from one in the middle of a round."""
    whole = trained(tmp_path, 2, dtype="float32", checkpoint_interval=total_steps)
    (folder,) = tmp_path.iterdir()
    path = folder / "models" / f"hmasd_sync_enhanced_{total_steps}.pth"
    again = trained(tmp_path, 2, dtype="float32", model_path=str(path))
    assert differences(env_by_env(again), env_by_env(whole)) == []
    assert differences(again["env"], whole["env"]) == []
    assert differences(again["episodes"], whole["episodes"]) == []


@pytest.mark.parametrize(
    ("before", "after"), [(2, 1), (1, 2), pytest.param(2, 4, marks=pytest.mark.slow)]
)
def test_another_number_of_ranks_goes_on(tmp_path: Path, before: int, after: int) -> None:
    """As if nothing had happened, but for the order of additions."""
    first = trained(tmp_path, before, checkpoint_interval=132)
    (folder,) = tmp_path.iterdir()
    path = folder / "models" / "hmasd_sync_enhanced_132.pth"
    other = trained(tmp_path, after, model_path=str(path))
    assert furthest(first, other) < 1e-9
    assert other["episodes"] == first["episodes"]
