"""Measuring a trained run: the right policy, new episodes, what is kept."""

import contextlib
import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest

from hmasd import checkpoint
from hmasd.bench import files, measure
from hmasd.envs.registry import make_env
from hmasd.telemetry.jsonl import read_lines
from tests.bench.made_up import episodes
from tests.helpers.runs import register_small_envs, run, tiny_config


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A tiny run with three evaluations."""
    register_small_envs(monkeypatch)
    config = tiny_config(
        output_dir=str(tmp_path), eval_interval=24, checkpoint_interval=30, keep_policies=True
    )
    run(config)
    return tmp_path, config


def models(folder):
    return {path.name for path in (folder / "models").iterdir()}


def test_the_best_evaluation_is_the_latest_of_the_best():
    rows = [
        {"env_steps": steps} | row
        for steps, share in ((100, 0.5), (200, 1.0), (300, 1.0), (400, 0.75))
        for row in episodes(share)
    ]
    assert measure.best_evaluation(rows) == 300
    greedy_only = [row for row in rows if row["mode"] == "greedy" or row["env_steps"] != 300]
    lost = [row | {"return": 0.0} if row["env_steps"] == 300 else row for row in greedy_only]
    assert measure.best_evaluation(lost) == 200


def test_a_run_is_measured_and_tidied(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr(measure, "best_evaluation", lambda rows: 24)
    assert "policy_48.pth" in models(folder) and "hmasd_sync_enhanced_30.pth" in models(folder)
    assert measure.main([str(folder), "--episodes", "5"]) == 0
    found = files.read_json(folder / files.ABSOLUTE)
    assert found["env_steps"] == 24
    assert [(row["mode"], row["episode"]) for row in found["episodes"]] == [
        (mode, i) for mode in ("greedy", "stochastic") for i in range(5)
    ]
    diagnosis = files.read_json(folder / files.DIAGNOSIS)
    assert diagnosis["skills"]["last"]["env_steps"] == 72
    kept = {row["env_steps"] for row in diagnosis["skills"].values() if row}
    assert models(folder) == {
        "hmasd_sync_enhanced_final.pth",
        *(f"policy_{steps}.pth" for steps in kept | {24}),
    }
    assert "policy_24.pth" in models(folder)
    (folder / files.DIAGNOSIS).write_text("{")  # damaged later: what is kept is enough for it
    assert measure.main([str(folder), "--failed"]) == 0
    assert files.read_json(folder / files.DIAGNOSIS) == diagnosis
    for name in (files.ABSOLUTE, files.DIAGNOSIS):  # and for both
        (folder / name).unlink()
    measure.measure(folder, 5)
    assert files.read_json(folder / files.ABSOLUTE) == found
    assert files.read_json(folder / files.DIAGNOSIS) == diagnosis


def test_the_policy_that_is_measured_is_that_of_its_evaluation(trained):
    """Played on the evaluation's own seed it gives the evaluation's episodes again."""
    folder, config = trained
    training = files.training_folder(folder)
    for steps in (24, 72):
        own, networks = measure.load_policy(checkpoint.policy_path(folder / "models", steps))
        assert own == config
        again = measure.play_episodes(
            own, networks, "stochastic", own.eval_episodes, own.seed + measure.SEED_OFFSET
        )
        rows = read_lines(training / "evaluations.jsonl")
        logged = [r for r in rows if (r["env_steps"], r["mode"]) == (steps, "stochastic")]
        assert [x.episode_return for x in again] == [row["return"] for row in logged]


def test_the_episodes_are_new_ones(tmp_path, monkeypatch):
    """Starts are drawn from the seed: those of evaluations and of the last test are different."""
    config = tiny_config(
        env="alice_and_bob",
        output_dir=str(tmp_path),
        eval_interval=72,
        keep_policies=True,
    )
    run(config)
    seeds = []
    played = measure.play_episodes
    monkeypatch.setattr(
        measure, "play_episodes", lambda *words: seeds.append(words[-1]) or played(*words)
    )
    measure.measure(tmp_path, 4)
    assert set(seeds) == {config.seed + measure.SEED_OFFSET + measure.NEW_EPISODES}
    assert (tmp_path / "skills.png").stat().st_size > 1000
    json.dumps(files.read_json(tmp_path / files.DIAGNOSIS), allow_nan=False)
    env = make_env("alice_and_bob", 200, 7)
    one = env.reset(config.seed + measure.SEED_OFFSET).obs.copy()
    other = env.reset(seeds[0]).obs.copy()
    assert np.mean((one == other).all(axis=(1, 2))) < 0.1


def test_a_run_without_evaluations_says_what_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match="eval_interval"):
        measure.measure(Path(tmp_path), 5)


def test_a_run_that_failed_is_diagnosed_and_nothing_is_deleted(trained):
    """As one that was measured; without an evaluation it has what was logged."""
    folder, _ = trained
    before = models(folder)
    assert measure.main([str(folder), "--failed"]) == 0
    found = files.read_json(folder / files.DIAGNOSIS)
    assert models(folder) == before and not (folder / files.ABSOLUTE).exists()
    measure.measure(folder, 4)
    assert found == files.read_json(folder / files.DIAGNOSIS)
    assert found["skills"]["last"]["env_steps"] == 72
    (files.training_folder(folder) / "evaluations.jsonl").unlink()
    measure.diagnose_failed(folder)
    again = files.read_json(folder / files.DIAGNOSIS)
    assert again == found | {"skills": {"before_success": None, "last": None}}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_no_room_to_measure_has_an_exit_code_of_its_own(trained, monkeypatch, capsys, number):
    """Control: any other error is a failure."""
    folder, _ = trained

    def refuse(*_):
        raise OSError(number, "refused")

    monkeypatch.setattr("os.replace", refuse)
    with contextlib.nullcontext() if number == errno.ENOSPC else pytest.raises(OSError):
        assert measure.main([str(folder), "--episodes", "2"]) == 4
        assert "refused" in capsys.readouterr().err
    assert not (folder / files.ABSOLUTE).exists() and "policy_48.pth" in models(folder)


def test_a_run_that_never_began_has_nothing_to_say(tmp_path):
    with pytest.raises(FileNotFoundError, match="training never began"):
        measure.diagnose_failed(tmp_path)


def test_a_final_checkpoint_that_is_damaged_is_no_result(trained):
    folder, _ = trained
    path = checkpoint.checkpoint_path(folder / "models", None)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.CheckpointError, match="final"):
        measure.measure(folder, 5)
    assert not (folder / files.ABSOLUTE).exists()


def test_the_last_policy_must_be_there_to_be_measured(trained, monkeypatch):
    """Another one does not take its place, but where the run failed before it was saved."""
    folder, _ = trained
    monkeypatch.setattr(measure, "best_evaluation", lambda rows: 24)
    checkpoint.policy_path(folder / "models", 72).unlink()
    with pytest.raises(checkpoint.CheckpointError, match="policy_72"):
        measure.measure(folder, 5)
    assert not (folder / files.ABSOLUTE).exists()
    measure.diagnose_failed(folder)
    assert files.read_json(folder / files.DIAGNOSIS)["skills"]["last"]["env_steps"] == 48


def test_a_policy_that_is_gone_is_named(trained):
    folder, config = trained
    assert dataclasses.asdict(config)["keep_policies"]
    for path in (folder / "models").glob("policy_*"):
        path.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="policy_"):
        measure.measure(folder, 5)
