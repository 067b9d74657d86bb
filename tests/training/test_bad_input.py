"""Bad numbers and bad files stop a run with words, and leave the last checkpoint as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hmasd import checkpoint
from hmasd.algorithm import optimization
from hmasd.algorithm.optimization import Learner, TrainingError, step_together
from hmasd.checkpoint import CheckpointError
from hmasd.config import Config
from hmasd.kernels import build
from hmasd.telemetry.run_folder import RunFolderError
from hmasd.training import loop
from hmasd.training.loop import Trainer
from hmasd.types import EnvStep
from tests.helpers.runs import differences, run, snapshot

BAD_STEP = 11  # in the third round


def spoiled(trainer: Trainer, field: str, value: float) -> None:
    """Let one number of env 2 be bad in one step."""
    play = trainer.env.step

    def step(action: np.ndarray) -> EnvStep:
        number = trainer.agent.env_steps // trainer.config.num_envs + 1
        played = play(action)
        if number != BAD_STEP:
            return played
        array = (getattr(played.view, field) if field != "reward" else played.reward).copy()
        array[(2, *[-1] * (array.ndim - 1))] = value
        if field == "reward":
            return played._replace(reward=array)
        return played._replace(view=played.view._replace(**{field: array}))

    trainer.env.step = step


def files(config: Config) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(config.output_dir) / "models").iterdir()}


def check_stops_at_a_bad_number(config: Config, field: str, value: float) -> None:
    trainer = Trainer(dataclasses.replace(config, checkpoint_interval=15))
    spoiled(trainer, field, value)
    with pytest.raises(ValueError, match=rf"env 2, step {BAD_STEP}: {field}.*{value}"):
        trainer.run()
    kept = files(config)
    assert set(kept) == {f"hmasd_sync_enhanced_{n}.pth" for n in (15, 30)}
    good = checkpoint.load(Path(str(trainer.last_checkpoint)))
    assert good["agent"]["env_steps"] == 30
    assert trainer.agent.env_steps == 3 * (BAD_STEP - 1), "the bad step was stored"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["obs", "state", "reward"])
def test_a_bad_number_of_the_env_stops_by_name(config: Config, field: str, value: float) -> None:
    check_stops_at_a_bad_number(config, field, value)


def test_control_without_the_guard_a_bad_number_is_stored(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "check_step", lambda step, number: None)
    with pytest.raises((AssertionError, TrainingError, pytest.fail.Exception)):
        check_stops_at_a_bad_number(config, "obs", float("nan"))


def test_a_bad_first_view_stops_before_anything_runs(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = loop.make_env

    def make_bad(*args: Any) -> Any:
        env = make(*args)
        reset = env.reset

        def bad_reset(seed: int):
            view = reset(seed)
            view.obs[1, 0, 2] = np.nan
            return view

        env.reset = bad_reset
        return env

    monkeypatch.setattr(loop, "make_env", make_bad)
    with pytest.raises(ValueError, match="env 1, step 0: obs of agent 0 is nan at place 2"):
        Trainer(config)


NAMES = ["coordinator", "actor", "critic", "team discriminator", "individual discriminator"]


@pytest.mark.parametrize("where", ["loss", "gradient norm"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_loss_stops_before_the_optimizer_step(
    config: Config, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    """One NaN step makes every weight NaN, and the next checkpoint worthless."""
    trainer = Trainer(dataclasses.replace(config, checkpoint_interval=15))
    shipped = Learner.accumulate
    before: dict[str, Any] = {}

    def step(self: Learner, losses: Iterable[tuple[torch.Tensor, float]]) -> None:
        if self.name == name and trainer.agent.policy_version >= 2:
            before["weights"] = {k: x.clone() for k, x in self.network.state_dict().items()}
            before["files"] = files(config)
            before["learner"] = self
            zero = next(self.network.parameters()).flatten()[0] * 0
            # sqrt(0): a finite loss whose gradient is not
            bad = zero * float("nan") if where == "loss" else zero.sqrt()
            losses = [(loss + bad, share) for loss, share in losses]
        shipped(self, losses)

    monkeypatch.setattr(Learner, "accumulate", step)
    with pytest.raises(TrainingError, match=rf"the {name}'s {where} is (nan|inf).*learning-rate"):
        trainer.run()
    assert differences(before["learner"].network.state_dict(), before["weights"]) == []
    assert files(config) == before["files"] and before["files"]
    assert not trainer.agent.collection_enabled
    for path in (Path(config.output_dir) / "models").iterdir():
        checkpoint.load(path)


def test_control_without_the_guard_the_weights_are_spoiled(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "isfinite", lambda x: torch.tensor(True))
    monkeypatch.setattr(optimization, "math", SimpleNamespace(isfinite=lambda x: True))
    monkeypatch.setattr(build._switch, "enabled", False)  # the kernel looks, too
    trainer = Trainer(config)
    learner = trainer.agent.discoverer.actor_learner
    weight = next(learner.network.parameters())
    step_together((learner, [(weight.sum() * float("nan"), 1.0)]))
    assert weight.isnan().all()


# --- checkpoints ----------------------------------------------------------------------------------


def stopped_run(config: Config) -> tuple[Path, Path]:
    """A run's checkpoints at 15 and 30 env steps, the later one first."""
    run(dataclasses.replace(config, total_steps=36, checkpoint_interval=15))
    models = Path(config.output_dir) / "models"
    (models / "hmasd_sync_enhanced_final.pth").unlink()
    return models / "hmasd_sync_enhanced_30.pth", models / "hmasd_sync_enhanced_15.pth"


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 16}, {"num_agent_skills": 4}, {"agent_id": True}, {"env": "masked"}],
    ids=str,
)
def test_a_checkpoint_of_another_shape_is_refused(config: Config, change: dict[str, Any]) -> None:
    path, _ = stopped_run(config)
    with pytest.raises(CheckpointError, match=r"does not fit(.|\n)*in the file.*here"):
        Trainer(dataclasses.replace(config, model_path=str(path), **change))


def test_a_damaged_checkpoint_is_refused_and_the_newest_good_one_named(config: Config) -> None:
    path, good = stopped_run(config)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged") as refused:
        Trainer(dataclasses.replace(config, model_path=str(path)))
    assert f"--model-path {good}" in str(refused.value)
    run(dataclasses.replace(config, total_steps=36, model_path=str(good)))


def test_a_missing_checkpoint_is_refused(config: Config) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        Trainer(dataclasses.replace(config, model_path=str(Path(config.output_dir) / "no.pth")))


def test_a_failed_load_leaves_the_agent_alone(config: Config) -> None:
    path, _ = stopped_run(config)
    trainer = Trainer(dataclasses.replace(config, hidden_size=16))
    before = snapshot(trainer.agent)
    with pytest.raises(CheckpointError):
        trainer.agent.load_model(path)
    assert differences(snapshot(trainer.agent), before) == []
    trainer.metrics_log.close()


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "runs", "logs"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(
    config: Config, tmp_path: Path, place: str
) -> None:
    """A file stands where the folder should be, which even root cannot write into."""
    output = tmp_path / "out"
    blocked = output / place if place else output
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file")
    with pytest.raises(OSError, match=r"cannot write .*--output-dir") as refused:
        Trainer(dataclasses.replace(config, output_dir=str(output)))
    assert str(blocked) in str(refused.value)
    if place != "logs":
        assert isinstance(refused.value, RunFolderError)


def test_a_checkpoint_that_cannot_be_written_stops_with_its_name(config: Config) -> None:
    (Path(config.output_dir) / "models").write_text("a file")
    trainer = Trainer(config)
    with pytest.raises((OSError, CheckpointError), match="models"):
        trainer.run()


def test_an_unknown_env_is_named_with_the_nearest(config: Config) -> None:
    with pytest.raises(ValueError, match=r"'alice_and_bop' does.*did you mean 'alice_and_bob'"):
        Trainer(dataclasses.replace(config, env="alice_and_bop"))


def test_training_does_not_go_on_from_an_agent_without_its_envs(config: Config) -> None:
    """A policy that was kept, or a file of `save_model`."""
    trainer = Trainer(config)
    trainer.run()
    agent = Path(config.output_dir) / "agent.pth"
    trainer.agent.save_model(agent, config=dataclasses.asdict(config))
    whole = checkpoint.checkpoint_path(Path(config.output_dir) / "models", None)
    policy = Path(config.output_dir) / "policy.pth"
    content = checkpoint.load(whole)
    networks = {name: content["agent"][name] for name in ("networks", "played", "num_agents")}
    checkpoint.save(policy, content | {"agent": networks})
    for path in (agent, policy):
        with pytest.raises(CheckpointError, match="not a training to go on with"):
            Trainer(dataclasses.replace(config, model_path=str(path)))
    Trainer(dataclasses.replace(config, model_path=str(whole)))  # control
