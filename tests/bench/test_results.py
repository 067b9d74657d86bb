"""Folders become scores, rows and marl-eval's JSON; a failed run counts as the worst."""

import json

import numpy as np
import pytest

from hmasd.bench import files, results
from hmasd.bench.results import episode_rows, marl_eval, read_record, scores
from tests.bench.made_up import TEXT, fail, finish, make_comparison, write_training


@pytest.fixture
def comparison(tmp_path):
    """good: 1.0, 0.5 and a failure at 0.25; bad_one: one finished run, the others not."""
    spec, jobs = make_comparison(tmp_path)
    by_key = {(job.key.algorithm, job.key.seed): job for job in jobs}
    finish(by_key["good", 1], [0.5, 1.0], best=1.0)
    finish(by_key["good", 2], [0.25, 0.25], best=0.5)
    fail(by_key["good", 3], [0.25])
    finish(by_key["bad_one", 1], [0.0, 0.0], best=0.0)
    write_training(by_key["bad_one", 2], [1.0])
    return spec, [read_record(job) for job in jobs]


def test_scores_by_hand(comparison):
    spec, records = comparison
    found = scores(spec, records)["exact"]
    for mode in ("greedy", "stochastic"):
        assert found["good"].curves[mode].tolist() == [[0.5, 1.0], [0.25, 0.25], [0.25, 0.0]]
        assert found["good"].absolute[mode].tolist() == [1.0, 0.5, 0.0]
        assert found["bad_one"].absolute[mode].tolist() == [0.0]  # what is not finished is not in
    assert found["good"].overall.tolist() == [1.0, 0.5, 0.0]
    assert found["good"].solved.tolist() == [True, False, False]
    assert found["good"].solved_at_end.tolist() == [True, False, False]


def test_a_policy_that_is_lost_at_the_end_is_not_solved_at_the_end(tmp_path):
    spec, jobs = make_comparison(tmp_path)
    finish(jobs[0], [1.0, 0.5], best=1.0)
    found = scores(spec, [read_record(jobs[0])])["exact"]["good"]
    assert found.solved.tolist() == [True] and found.solved_at_end.tolist() == [False]


def test_one_way_of_playing_is_not_enough(comparison):
    spec, records = comparison
    rows = [
        row | {"success": False} if (row["mode"], row["phase"]) == ("greedy", "absolute") else row
        for row in records[0].rows
    ]
    found = scores(spec, [records[0]._replace(rows=rows)])["exact"]["good"]
    assert found.solved.tolist() == [False] and found.solved_at_end.tolist() == [True]


def test_control_leaving_failed_runs_out_would_look_better(comparison):
    spec, records = comparison
    kept = [record for record in records if record.state != "failed"]
    better = scores(spec, kept)["exact"]["good"].overall.mean()
    assert scores(spec, records)["exact"]["good"].overall.mean() < better


def test_returns_are_scaled_within_the_task(tmp_path):
    spec, jobs = make_comparison(tmp_path, TEXT + "metric: return\n")
    finish(jobs[0], [0.25, 0.5], best=0.5)
    finish(jobs[1], [0.25, 0.375], best=0.25)
    found = scores(spec, [read_record(job) for job in jobs[:2]])["exact"]
    assert found["good"].curves["greedy"].tolist() == [[0.0, 1.0]]
    assert found["bad_one"].curves["greedy"].tolist() == [[0.0, 0.5]]
    assert found["bad_one"].overall.tolist() == [0.0]


def test_runs_that_all_return_the_same_are_above_those_that_failed(tmp_path):
    spec, jobs = make_comparison(tmp_path, TEXT + "metric: return\n")
    finish(jobs[0], [0.5, 0.5], best=0.5)
    fail(jobs[1], [])
    found = scores(spec, [read_record(job) for job in jobs[:2]])["exact"]
    assert found["good"].overall.tolist() == [1.0] and found["bad_one"].overall.tolist() == [0.0]
    assert found["good"].curves["greedy"].tolist() == [[1.0, 1.0]]


def test_of_an_evaluation_that_is_not_whole_nothing_counts(tmp_path):
    """All that is left of the last one was won; it counts as lost, and not the one before it."""
    spec, jobs = make_comparison(tmp_path)
    finish(jobs[0], [1.0, 1.0], best=1.0)
    path = files.training_folder(jobs[0].folder) / "evaluations.jsonl"
    whole = scores(spec, [read_record(jobs[0])])["exact"]["good"]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))
    record = read_record(jobs[0])
    found = scores(spec, [record])["exact"]["good"]
    assert found.curves["greedy"].tolist() == [[1.0, 0.0]]
    assert found.solved.tolist() == [True] and found.solved_at_end.tolist() == [False]
    assert whole.solved_at_end.tolist() == [True]  # control
    run = marl_eval("made_up", spec, [record])["made_up"]["exact"]["good"]["seed_1"]
    assert run["step_2"]["step_count"] == 4000 and run["step_2"]["greedy_success"] == [0.0]
    assert len(run["absolute_metrics"]["greedy_success"]) == 32  # that is there


def test_every_episode_is_a_row(comparison, tmp_path):
    _, records = comparison
    path = tmp_path / "rows.jsonl"
    results.write_rows(path, episode_rows(records))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 64 * (3 + 3 + 1 + 3 + 1)
    assert rows[0] == {
        **{"task": "exact", "algorithm": "good", "seed": 1, "phase": "evaluation"},
        **{"env_steps": 2048, "mode": "greedy", "episode": 0},
        **{"success": True, "return": 1.0, "length": 10},
    }


def test_the_layout_of_marl_eval(comparison):
    """Environment, task, algorithm, run, then step_1.. with step_count, and absolute_metrics."""
    spec, records = comparison
    found = marl_eval("made_up", spec, records)["made_up"]["exact"]
    assert {name: sorted(runs) for name, runs in found.items()} == {
        "good": ["seed_1", "seed_2", "seed_3"],
        "bad_one": ["seed_1"],  # the others are not over
    }
    run = found["good"]["seed_1"]
    assert sorted(run) == ["absolute_metrics", "step_1", "step_2"]
    assert run["step_2"]["step_count"] == 4096
    assert np.mean(run["step_1"]["greedy_success"]) == 0.5
    assert len(run["absolute_metrics"]["stochastic_return"]) == 32
    assert "step_count" not in run["absolute_metrics"]


def test_what_a_failed_run_did_not_come_to_is_lost_for_marl_eval(comparison):
    spec, records = comparison
    run = marl_eval("made_up", spec, records)["made_up"]["exact"]["good"]["seed_3"]
    assert np.mean(run["step_1"]["greedy_success"]) == 0.25  # what it did
    assert run["step_2"] == {"step_count": 4000} | lost()
    assert run["absolute_metrics"] == lost()


def lost():
    return {f"{m}_{x}": [0.0] for m in ("greedy", "stochastic") for x in ("success", "return")}


def test_a_missing_evaluation_does_not_move_the_others(tmp_path):
    """The first of two is gone: what was reached in the second stays there."""
    spec, jobs = make_comparison(tmp_path)
    finish(jobs[0], [1.0, 0.5], best=1.0)
    record = read_record(jobs[0])
    rows = [row for row in record.rows if row["env_steps"] != 2048]
    found = scores(spec, [record._replace(rows=rows)])["exact"]["good"]
    assert found.curves["greedy"].tolist() == [[0.0, 0.5]]


def test_a_run_that_failed_at_once_is_lost_throughout(tmp_path):
    spec, jobs = make_comparison(tmp_path)
    fail(jobs[0], [])
    records = [read_record(jobs[0])]
    assert scores(spec, records)["exact"]["good"].curves["greedy"].tolist() == [[0.0, 0.0]]
    run = marl_eval("made_up", spec, records)["made_up"]["exact"]["good"]["seed_1"]
    assert run["step_1"] == {"step_count": 2000} | lost() and run["absolute_metrics"] == lost()
