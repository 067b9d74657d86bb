"""2N rounds are N rounds, a stop and N more, to the last bit; every item of a checkpoint counts.

The cuts go through every lock-step of a run and every update: in the middle of a round, of an
episode, of a segment, at a round's end before its update, after it, before and after one of the
coordinator's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hmasd import checkpoint
from hmasd.algorithm import noise_scale, novelty
from hmasd.config import Config
from hmasd.presets import CHANGES
from hmasd.training.loop import Trainer
from tests.helpers.fake_gpu import needs_gpu
from tests.helpers.runs import (
    Cut,
    Result,
    assert_same_result,
    differences,
    leaves,
    register_small_envs,
    result,
    resume,
    run,
    same,
    tiny_config,
)

SCENARIOS: dict[str, dict[str, Any]] = {
    "base": {
        **{"novelty_coef": 1.0, "exploration_start": 24, "exploration_batch_size": 4},
    },
    "surveys": {  # go on, since nothing is won: by chance in rounds 6 and 7, another in 8 and 9
        **{"novelty_coef": 1.0, "exploration_start": 50, "exploration_batch_size": 2},
        **{"survey_interval": 2, "env": "masked", "episode_length": 6, "total_steps": 108},
    },
    "agent_id": {"agent_id": True, "skill_input": "input", "critic_head": "team"},
    "reset_hidden": {"reset_hidden_on_skill": True},
    "smdp": {"high_discount": "smdp", "extrinsic_coef": 1.0, "discriminator_rounds": 1},
    "continuous": {"env": "point", "episode_length": 5},
    "masked": {"env": "masked", "episode_length": 6, "eval_interval": 24},
    "played_again": {"env": "tests.helpers.foreign_envs:MaskedRelay", "episode_length": 5},
    "ippo": {**CHANGES["ippo"], "env": "masked"},
    "mat": {**CHANGES["mat"], "env": "masked"},
    "no_high_level": CHANGES["no_high_level"],
    "linear": {"batch_schedule": "linear", "max_batch_factor": 2},
    "noise": {"batch_schedule": "noise", "max_batch_factor": 2},
    "asynchronous": {"sync_mode": False, "chunk_length": 6, "total_steps": 84, "env": "masked"},
}
ON_GPU = ("base", "agent_id", "smdp", "continuous", "masked", "mat", "asynchronous")
SCENARIOS |= {f"{name} on a GPU": {**SCENARIOS[name], "device": "cuda"} for name in ON_GPU}
ROUNDS, STEPS = 6, 4
GROWING = {"linear", "noise"}
KINDS = [
    pytest.param(name, marks=needs_gpu if "device" in settings else ())
    for name, settings in SCENARIOS.items()
    if name != "base"
]
BEFORE = [Cut(n) for n in range(1, ROUNDS * STEPS + 1)]
AFTER = [Cut(n, after_update=True) for n in range(STEPS, ROUNDS * STEPS, STEPS)]
SOME = [Cut(11), Cut(16), Cut(20, after_update=True)]

# Dozens of whole runs each: more than the limit for one test on a busy machine.
pytestmark = pytest.mark.timeout(900)


class Runs:
    """Uninterrupted and stopped runs, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: dict[str, Result] = {}
        self._stopped: dict[tuple[str, Cut | None], Path] = {}
        self._fresh: dict[str, dict[str, Any]] = {}
        self._contents: dict[tuple[str, Cut], dict[str, Any]] = {}

    def config(self, scenario: str) -> Config:
        return tiny_config(**SCENARIOS[scenario])

    def whole(self, scenario: str) -> Result:
        if scenario not in self._whole:
            folder = str(self.folder / f"{scenario}-whole")
            trainer = run(dataclasses.replace(self.config(scenario), output_dir=folder))
            self._whole[scenario] = result(trainer)
        return self._whole[scenario]

    def stopped(self, scenario: str, cut: Cut | None) -> Path:
        """Folder of a run that a signal stopped at the cut; None: that saved at every step."""
        if (scenario, cut) not in self._stopped:
            folder = self.folder / f"{scenario}-{len(self._stopped)}"
            config = dataclasses.replace(self.config(scenario), output_dir=str(folder))
            if cut is None:
                config = dataclasses.replace(config, checkpoint_interval=config.num_envs)
            run(config, cut)
            self._stopped[scenario, cut] = folder
        return self._stopped[scenario, cut]

    def fresh(self, scenario: str) -> dict[str, Any]:
        """The checkpoint of a run that has not begun."""
        if scenario not in self._fresh:
            folder = str(self.folder / f"{scenario}-fresh")
            trainer = Trainer(dataclasses.replace(self.config(scenario), output_dir=folder))
            trainer._save(0)
            trainer.metrics_log.close()
            self._fresh[scenario] = checkpoint.load(Path(trainer.last_checkpoint or ""))
        return self._fresh[scenario]

    def content(self, scenario: str, cut: Cut) -> dict[str, Any]:
        """The checkpoint of a cut."""
        if (scenario, cut) not in self._contents:
            self._contents[scenario, cut] = self._load(scenario, cut)
        return self._contents[scenario, cut]

    def _load(self, scenario: str, cut: Cut) -> dict[str, Any]:
        if cut.after_update:
            (path,) = (self.stopped(scenario, cut) / "models").glob("*.pth")
        else:
            steps = cut.lock_steps * self.config(scenario).num_envs
            path = checkpoint.checkpoint_path(self.stopped(scenario, None) / "models", steps)
        return checkpoint.load(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_small_envs(monkeypatch)
        monkeypatch.setattr(noise_scale, "LEAST_ROUNDS", 3)
        monkeypatch.setattr(novelty, "DEVIATIONS", -5.0)  # whatever comes is worth something
        yield Runs(tmp_path_factory.mktemp("runs"))


def test_the_cuts_are_where_they_should_be(runs: Runs) -> None:
    """In a round's middle and at its end, in and between episodes and segments, at both updates."""
    found = set()
    for cut in BEFORE + AFTER:
        agent = runs.content("base", cut)["agent"]
        clock = agent["team"]["clock"]
        collected = agent["gate"]["samples_collected_this_round"]
        found |= {
            f"round {'full' if collected == 12 else 'empty' if collected == 0 else 'half'}",
            f"episode {'over' if agent['team']['restart'].any() else 'runs'}",
            f"segment {'open' if (clock['age'] > 0).any() & ~clock['due'].all() else 'closed'}",
        }
        closed = sum(len(segments["env"]) for segments in agent["high_storage"]["closed"])
        if collected == 12 and closed >= 7:
            found.add("before the coordinator's update")
        if collected == 0 and agent["coordinator_version"] > 0 and closed == 0:
            found.add("after the coordinator's update")
        if collected == 0 and closed > 0:
            found.add("after an update without the coordinator's")
    assert found == {
        *("round full", "round half", "round empty"),
        *("episode over", "episode runs", "segment open", "segment closed"),
        *("before the coordinator's update", "after the coordinator's update"),
        "after an update without the coordinator's",
    }


@pytest.mark.parametrize("cut", BEFORE, ids=str)
def test_a_run_that_was_killed_goes_on_from_any_step(runs: Runs, cut: Cut, tmp_path: Path) -> None:
    """What the killed run logged after its checkpoint is logged once in the end."""
    config = runs.config("base")
    trainer = resume(
        config, runs.stopped("base", None), tmp_path / "run", cut.lock_steps * config.num_envs
    )
    assert_same_result(result(trainer), runs.whole("base"))


@pytest.mark.parametrize("cut", [Cut(6), Cut(24), *AFTER], ids=str)
def test_a_run_that_a_signal_stopped_goes_on(runs: Runs, cut: Cut, tmp_path: Path) -> None:
    trainer = resume(runs.config("base"), runs.stopped("base", cut), tmp_path / "run")
    assert_same_result(result(trainer), runs.whole("base"))


@pytest.mark.parametrize("cut", SOME, ids=str)
@pytest.mark.parametrize("scenario", KINDS)
def test_every_kind_of_run_goes_on(runs: Runs, scenario: str, cut: Cut, tmp_path: Path) -> None:
    whole = runs.whole(scenario)
    trainer = resume(runs.config(scenario), runs.stopped(scenario, cut), tmp_path / "run")
    assert_same_result(result(trainer), whole)
    sizes = [row["Sync/BatchSize"] for row in whole.rows]
    rounds = 9 if scenario == "surveys" else ROUNDS
    assert sizes == ([12, 12, 12, 24, 24] if scenario in GROWING else [12] * rounds)
    assert bool(whole.evaluations) == (SCENARIOS[scenario].get("eval_interval", 0) > 0)


# --- leaving one item out -------------------------------------------------------------------------

CUTS = [
    ("base", Cut(19)),
    ("base", Cut(20)),
    ("base", Cut(16)),
    ("base", Cut(16, after_update=True)),
    ("base", Cut(20, after_update=True)),
    ("masked", Cut(19)),
    ("masked", Cut(20)),
    ("masked", Cut(15)),
    ("masked", Cut(16)),
    ("base", Cut(13)),
    ("base", Cut(12)),
    ("masked", Cut(12)),
    ("masked", Cut(8)),
    ("masked", Cut(4)),
    ("surveys", Cut(32, after_update=True)),
    ("noise", Cut(15)),
    ("noise", Cut(12, after_update=True)),
]
"""Late ones, so that little is left to run: a half round, full ones, after each kind of update."""

NEEDLESS = {
    "agent.gate.sync_mode": "true in every run",
    "agent.gate.collection_enabled": "true whenever a checkpoint is written",
    "agent.high_storage.closed.cut": "false in every checkpoint: the update that cuts empties it",
    "agent.high_storage.closed_before": "no env fails in these runs; tests/test_lost_envs.py",
    "agent.low_storage.discarded": "no env fails in these runs; tests/test_lost_envs.py",
    "agent.low_storage.last_step": "a guard; rollout/test_storage.py shows what it refuses",
    "agent.next_view.action_mask": "the coordinator looks at no action mask",
    "agent.novelty.directions": "drawn from the seed, which is the same in a continued run here",
    "agent.num_agents": "for who plays the team without an env; the env tells training",
    "run_name": "names the folder",
    "config": "the settings, which the command line reads",
}
"""What a continued run does not depend on, and why."""


def item_of(path: tuple[Any, ...]) -> str:
    """The item that a leaf belongs to; a network, and one moment of an optimizer, are items."""
    names = [str(name) for name in path if not isinstance(name, int)]
    if names[0] == "config":
        return "config"
    if names[0] == "agent" and names[1] in ("networks", "played"):
        return ".".join(names[:2]) + "." + names[2].split(".")[0]
    if "param_groups" in names:
        return ".".join(names[:3]) + ".param_groups"
    return ".".join(names)


def without(
    content: dict[str, Any], fresh: dict[str, Any], item: str
) -> tuple[dict[str, Any], bool]:
    """The content with an item as a fresh run has it, or zero; and whether that changes it."""
    at_start = dict(leaves(fresh))
    changed = False

    def rebuild(value: Any, path: tuple[Any, ...]) -> Any:
        nonlocal changed
        if isinstance(value, dict) and value:
            return {key: rebuild(x, (*path, key)) for key, x in value.items()}
        if isinstance(value, list | tuple) and value:
            return type(value)(rebuild(x, (*path, i)) for i, x in enumerate(value))
        if item_of(path) != item:
            return value
        blank = at_start.get(path, _zero(value))
        changed |= not same(blank, value)
        return blank

    return rebuild(content, ()), changed


def _zero(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else type(value)()


def items(runs: Runs) -> list[str]:
    """Every item of the checkpoints at the cuts."""
    found: dict[str, None] = {}
    for scenario, cut in CUTS:
        found |= {
            item_of(path): None
            for path, leaf in leaves(runs.content(scenario, cut))
            if not isinstance(leaf, dict | list)  # an empty one holds no item
        }
    return list(found)


def goes_wrong(runs: Runs, scenario: str, content: dict[str, Any], target: Path) -> bool:
    """Whether the run that goes on from the content is refused, or ends in another way."""
    path = target / "models" / "hmasd_sync_enhanced_1.pth"
    checkpoint.save(path, content)
    config = dataclasses.replace(
        runs.config(scenario), output_dir=str(target), model_path=str(path), eval_interval=0
    )
    whole = runs.whole(scenario)
    try:
        ended = result(run(config))
    except Exception:  # any error shows that the item was missed
        return True
    if differences(ended.content, whole.content):
        return True
    known = {row["env_steps"]: row for row in whole.rows}
    return any(not row.items() <= known[row["env_steps"]].items() for row in ended.rows)


def is_missed(runs: Runs, item: str, folder: Path) -> bool:
    """Whether leaving the item out goes wrong at one of the cuts."""
    for number, (scenario, cut) in enumerate(CUTS):
        content, changed = without(runs.content(scenario, cut), runs.fresh(scenario), item)
        if changed and goes_wrong(runs, scenario, content, folder / str(number)):
            return True
    return False


def test_a_checkpoint_that_is_whole_goes_right(runs: Runs, tmp_path: Path) -> None:
    """The control of the test below: rewriting a checkpoint changes nothing by itself."""
    for number, (scenario, cut) in enumerate(CUTS):
        content, changed = without(runs.content(scenario, cut), {}, "nothing")
        assert not changed
        assert not goes_wrong(runs, scenario, content, tmp_path / str(number))


def test_leaving_out_any_item_goes_wrong(runs: Runs, tmp_path: Path) -> None:
    """An item that nobody misses is either not restored or needless: then say why above."""
    needed = [
        item
        for item in items(runs)
        if item not in NEEDLESS and not item.endswith(".param_groups")  # the configuration's
    ]
    assert len(needed) > 60
    silent = [item for item in needed if not is_missed(runs, item, tmp_path / item)]
    assert silent == []
