"""The benchmarks count what torch counts, time what they say, and print what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    compare,
    coordinator_alone,
    coordinator_on_skills,
    flops,
    growth,
    joined_report,
    machine,
    results_table,
)
from benchmarks.network_clock import NetworkClock
from hmasd import checkpoint, kernels
from hmasd.agent import HMASDAgent
from hmasd.algorithm.optimization import step_together
from hmasd.bench import files
from hmasd.config import Config
from hmasd.envs.registry import make_env
from hmasd.networks import HMASDNetworks
from tests.bench.made_up import TEXT, finish, make_comparison

ROOT = Path(__file__).parents[1]
SMALL = Config(
    env="simple_spread_4", num_envs=4, batch_size=32, hidden_size=16, discriminator_rounds=1
)
CONFIGS = {
    "skill critic": SMALL,
    "paper critic, skill at the input": replace(SMALL, critic_head="team", skill_input="input"),
    "agents numbered, two blocks": replace(SMALL, agent_id=True, coordinator_blocks=2),
}


@pytest.fixture
def eager():
    kernels.set_fast(False)  # torch can count only its own operations
    yield
    kernels.set_fast(True)


def make_agent(config: Config) -> HMASDAgent:
    return HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))


def counted(networks: HMASDNetworks, config: Config, rows: int) -> dict[str, int]:
    """What torch counts in a forward pass of `rows` env steps, or segments, by each network."""
    env = make_env(config.env, config.num_envs, config.episode_length)
    agents, width = env.num_agents, config.hidden_size
    seen = env.obs_size + (agents if config.agent_id else 0)
    state, obs = torch.randn(rows, env.state_size), torch.randn(rows, agents, seen)
    team = torch.zeros(rows, dtype=torch.int64)
    skills = torch.zeros(rows, agents, dtype=torch.int64)
    one = torch.ones(1, rows)
    flat = obs.flatten(0, 1).unsqueeze(0)
    passes = {
        "coordinator": lambda: networks.coordinator.evaluate(state, obs, team, skills),
        "actor": lambda: networks.actor(
            flat,
            skills.flatten().unsqueeze(0),
            torch.zeros(rows * agents, width),
            torch.ones(1, rows * agents),
            None,
        ),
        "critic": lambda: networks.critic(
            state[None], team[None], skills[None], torch.zeros(rows, width), one
        ),
        "team discriminator": lambda: networks.team_discriminator(state),
        "individual discriminator": lambda: networks.individual_discriminator(
            obs, team.unsqueeze(-1).expand(rows, agents)
        ),
    }
    totals = {}
    for name, run in passes.items():
        # torch counts attention only where it is written out
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run()
        totals[name] = counter.get_total_flops()
    return totals


@pytest.mark.parametrize("name", CONFIGS)
def test_products_are_those_that_torch_counts(name, eager):
    config, rows = CONFIGS[name], 3
    agent = make_agent(config)
    ours = flops.forward(config, make_env(config.env, config.num_envs, config.episode_length))
    theirs = counted(agent.networks, config, rows)
    ours = {name: rows * count for name, count in ours.items()}
    ours["coordinator"] += flops.words(config)
    assert ours == theirs


def test_an_update_counts_three_products_for_each_of_its_passes():
    config = replace(SMALL, discoverer_epochs=3, discriminator_epochs=2, coordinator_epochs=4)
    env = make_env(config.env, config.num_envs, config.episode_length)
    forward, update = flops.forward(config, env), flops.update(config, env, segments=5)
    assert update["actor"] == 3 * 3 * 32 * forward["actor"]
    assert update["coordinator"] == 3 * 4 * (5 * forward["coordinator"] + flops.words(config))
    assert update["team discriminator"] == 3 * 2 * 64 * forward["team discriminator"]
    assert flops.update(config, env, segments=0)["coordinator"] == 0


def test_the_clock_gives_each_network_its_own_time(monkeypatch):
    now = iter(range(1000))
    agent = make_agent(SMALL)
    clock = NetworkClock(agent)
    monkeypatch.setattr("benchmarks.network_clock.time.perf_counter", lambda: float(next(now)))
    nets, learners = agent.networks, agent.discriminators
    team = nets.team_discriminator(torch.randn(2, 96)).sum()  # from 0
    skills = torch.zeros(2, 4, dtype=torch.int64)
    individual = nets.individual_discriminator(torch.randn(2, 4, 24), skills).sum()  # from 1
    step_together((learners.team_learner, [(team, 1.0)]))  # from 2 to 3
    step_together((learners.individual_learner, [(individual, 1.0)]))  # from 4 to 5
    with torch.no_grad():
        nets.team_discriminator(torch.randn(2, 96))  # not a gradient step
    assert clock.pop() == {"team discriminator": 2.0, "individual discriminator": 2.0}
    assert clock.pop() == {}


TINY = (
    *("--env", "simple_spread_2", "--high-level-batch-size", "8", "--num-envs", "4"),
    *("--batch-size", "64", "--hidden-size", "16", "--skill-interval", "4"),
)


def test_processes_are_timed_by_the_clock_on_the_wall():
    figures = compare.run_our_processes(compare.Work(TINY, 1, 2), 2)
    assert figures["ranks"] == 2
    parts = figures["collect_seconds"] + figures["update_seconds"]
    assert 0 < figures["reduce_seconds"] < parts
    assert figures["steps_per_second"] < 64 / parts
    assert figures["peak_mib"] > 50


def test_training_speed_tells_where_the_time_goes():
    figures = compare.run_ours(TINY, warm_up=1, rounds=2, threads=1)
    parts = sum(network["seconds"] for network in figures["networks"].values())
    assert figures["prepare_seconds"] > 0
    assert figures["update_seconds"] == pytest.approx(parts + figures["prepare_seconds"])
    both = figures["collect_seconds"] + figures["update_seconds"]
    assert figures["steps_per_second"] == pytest.approx(64 / both)
    assert all(network["gflops"] > 0 for network in figures["networks"].values())
    assert 0 < figures["share"] < 1
    update_rate = 64 / figures["update_seconds"]
    assert figures["bound_steps_per_second"] == pytest.approx(update_rate / figures["share"])
    assert figures["peak_mib"] > 50


def test_the_limit_is_not_below_a_product_that_was_timed():
    torch.set_num_threads(1)
    a = torch.randn(640, 64)
    b = torch.randn(64, 192)
    seconds = machine._median_seconds(lambda: torch.mm(a, b), 0.1)
    assert machine.product_limit(0.1) > 0.7 * 2 * 640 * 64 * 192 / seconds / 1e9
    assert torch.get_num_threads() == 1


def test_a_failed_run_says_why():
    with pytest.raises(RuntimeError, match="no_such_env"):
        compare.run_ours(("--env", "no_such_env"), 1, 1, 1)


def figures(rate, **more):
    return {"steps_per_second": rate, "peak_mib": 100.0, "load": 1.0, **more}


def test_the_table_shows_the_median_run_and_the_ratio():
    runs = {"hmasd": [figures(x) for x in (900.0, 1200.0, 1000.0)], "other": [figures(500.0)]}
    ours, other = compare.table(runs).splitlines()[2:]
    assert "1,000 (900 - 1,200)" in ours and "1.00 x" in ours
    assert "2.00 x" in other
    assert compare.median_run([figures(1.0), figures(2.0)])["steps_per_second"] == 1.0


def test_a_missing_package_is_seen():
    assert compare.is_installed("json", sys.executable)
    assert not compare.is_installed("surely_not_installed", sys.executable)


@pytest.mark.parametrize("name", compare.WORKS)
def test_every_work_is_a_valid_command(name, monkeypatch):
    from hmasd.cli import load_config
    from hmasd.validation import validate

    monkeypatch.chdir(ROOT)
    validate(load_config(list(compare.WORKS[name].flags)))


def test_growth_draws_what_its_file_holds(tmp_path):
    point = figures(1000.0, steps_per_round=64, update_seconds=0.05, collect_seconds=0.01)
    point |= {"update_gflop": 1.0, "limit_gflops": 88.0}
    results = {axis: [point | {axis: value} for value in (2, 8)] for axis in growth.AXES}
    (tmp_path / "growth.json").write_text(json.dumps(results))
    command = [sys.executable, "benchmarks/growth.py", "--draw", "--out", str(tmp_path / "growth")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=100)
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"


def share_in_the_upper_left_corner(skill: int) -> float:
    """Of 64 teams whose agents both followed one scripted skill."""
    env = coordinator_alone.ScriptedSkills(64)
    env.reset(0)
    step = env.step(np.full((64, 2), skill))
    assert not (step.terminated | step.truncated).any()
    return float((step.view.obs[..., 9:] == 1).all(-1).mean())


def test_a_scripted_skill_leads_to_its_corner():
    assert share_in_the_upper_left_corner(0) > 0.5
    for elsewhere in (1, 2, 3, 6):  # control: other corners, and no direction
        assert share_in_the_upper_left_corner(elsewhere) < 0.1


def test_a_scripted_episode_is_four_decisions_or_ends_with_both_diamonds():
    """Corners in turn: bottom right and upper left, then the other two, which wins some games."""
    env = coordinator_alone.ScriptedSkills(64)
    env.reset(0)
    ended = np.zeros(64, dtype=bool)
    for number, pair in enumerate(([3, 0], [1, 2], [3, 0], [1, 2])):
        step = env.step(np.tile(pair, (64, 1)))
        assert (step.success == step.terminated).all()
        assert (step.reward == step.success).all()
        assert (step.truncated.any()) == (number == 3)
        ended |= step.terminated | step.truncated
    assert ended.all()
    assert step.truncated.mean() < 0.5  # most were won before


@pytest.mark.parametrize("extrinsic_coef", [0.0, 1.0])
def test_a_new_coordinator_learns_on_skills_that_stay_as_they_are(tmp_path, extrinsic_coef):
    config = replace(SMALL, env="alice_and_bob", episode_length=16, high_level_batch_size=4)
    config = replace(config, output_dir=str(tmp_path), eval_interval=0, checkpoint_interval=0)
    config = replace(config, exploration_batch_size=4, exploration_start=0)
    config = replace(config, extrinsic_coef=extrinsic_coef)
    made = make_agent(config).networks.state_dict()
    given = {name: torch.randn_like(x) if x.is_floating_point() else x for name, x in made.items()}
    rounds = coordinator_on_skills.train(replace(config, total_steps=320), given)
    assert [row["env_steps"] for row in rounds] == list(range(32, 321, 32))
    assert rounds[-1]["rollout/episodes"] == 20
    assert 0 < rounds[-1]["high/novelty"] < 1
    (path,) = tmp_path.glob("models/*final.pth")
    learned = checkpoint.load(path)["agent"]["networks"]
    stayed = {name for name, x in given.items() if torch.equal(x, learned[name])}
    as_made = {name for name, x in made.items() if torch.equal(x, learned[name])}
    high = {name for name in given if name.startswith(("coordinator", "high"))}
    low = {name for name in given if name.startswith(("actor", "critic", "team", "individual"))}
    assert low <= stayed
    assert high - stayed and high - as_made


def test_the_coordinators_settings_differ_in_its_reward_alone():
    configs = [coordinator_alone.settings_of(name, 1) for name in coordinator_alone.SETTINGS]
    assert len({replace(config, gamma=0.99) for config in configs}) == 1
    assert len(set(configs)) == 2


def test_a_coordinator_alone_learns_and_is_measured_ten_times():
    name = next(iter(coordinator_alone.SETTINGS))
    curve = coordinator_alone.learn(name, 1, env_steps=32_000, episodes=8)
    assert [steps for steps, *_ in curve] == [3200 * n for n in range(1, 11)]
    assert all(0 <= share <= 1 for _, *shares in curve for share in shares)


def test_a_report_joins_runs_of_two_comparisons(tmp_path, monkeypatch, capsys):
    """The first folder has one algorithm's runs, of another setting; the second has both."""
    for folder, text in (("one", TEXT.replace("good: {}", "good: {clip: 0.3}")), ("two", TEXT)):
        _, jobs = make_comparison(tmp_path / folder, text)
        for job in jobs:
            if folder == "two" or job.key.algorithm == "good":
                share = 1.0 if folder == "two" else 0.5
                finish(job, [share], best=share)
                files.write_json(job.folder / files.SETTINGS, job._settings())
    words = [str(tmp_path / "two/made_up.yaml"), "--out", str(tmp_path / "report"), "--runs"]
    words += [str(tmp_path / folder / "out") for folder in ("one", "two")]
    monkeypatch.setattr(sys, "argv", ["joined_report.py", *words])
    assert joined_report.main() == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "Runs finished: 6;" in text
    assert "- good, settings that differ: clip was 0.3, is 0.2" in text
    assert "| good | 3 | 0.50 [0.50, 0.50]" in text and "| bad_one | 3 | 1.00 [1.00, 1.00]" in text


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """Joins the runs of folder `one` as its own file or another one says; returns the exit code."""

    def join(text, *words):
        (tmp_path / "asked.yaml").write_text(text)
        argv = [str(tmp_path / "asked.yaml"), "--out", str(tmp_path / "report")]
        argv += ["--runs", str(tmp_path / "one/out"), *words]
        monkeypatch.setattr(sys, "argv", ["joined_report.py", *argv])
        return joined_report.main()

    for job in make_comparison(tmp_path / "one")[1]:
        finish(job, [0.5, 1.0], best=1.0)
        files.write_json(job.folder / files.SETTINGS, job._settings())
    return join


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("env_steps: 4000", "env_steps: 8000"), "total_steps = 4000, the file 8000"),
        (("eval_interval: 2000", "eval_interval: 4000"), "eval_interval = 2000, the file 4000"),
        (("{env: alice_and_bob}", "{env: alice_and_bob_8x8_3}"), "env = 'alice_and_bob', the file"),
        (("absolute_factor: 1", "absolute_factor: 2"), "measured on 32 episodes, not on 64"),
    ],
)
def test_an_unfair_comparison_is_not_joined(change, words, joined, tmp_path, capsys):
    assert joined(TEXT.replace(*change)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert joined(TEXT) == 0  # control


def test_settings_that_did_not_exist_yet_are_noted(joined, tmp_path):
    """Of a version before them; also of those that a comparison must share."""
    for path in (tmp_path / "one/out").glob("runs/exact/good/*/settings.json"):
        settings = files.read_json(path)
        del settings["policy_average"], settings["team_reward"]
        files.write_json(path, settings)
    assert joined(TEXT) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "policy_average did not exist, is 400; team_reward did not exist, is 'sum'" in text


def test_runs_are_joined_under_other_names(joined, tmp_path, capsys):
    renamed = TEXT.replace("good:", "new:").replace("gamma: 0.9", "gamma: 0.99")
    assert joined(renamed, "--names", "new=good") == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "| new | 3 | 1.00" in text and "bad_one, settings that differ: gamma was 0.9" in text
    assert joined(TEXT, "--names", "new=good") == 2
    assert "--names new: the file's are good, bad_one" in capsys.readouterr().err
    assert joined(renamed, "--names", "new=goood") == 2
    assert "--names new=goood: the runs' are bad_one, good" in capsys.readouterr().err
    assert joined(TEXT, str(tmp_path)) == 2
    assert "there is no runs/ in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        joined(TEXT, "--names", "new")


def test_steadiness_counts_what_comes_after(tmp_path):
    rows = [
        {"env_steps": steps, "eval/greedy_success": greedy, "eval/stochastic_success": 1.0}
        for steps, greedy in ((100, 0.0), (200, 0.5), (300, 0.94), (400, 1.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7}))
    assert results_table.row(tmp_path, 100) == [
        *("7", "400", "0.813 / 1.000", "0.50 / 1.00", "2 / 0 of 3"),
    ]
    with pytest.raises(SystemExit, match="no evaluation after 400 env steps"):
        results_table.row(tmp_path, 400)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 500, "eval/gre')  # it is being written, or was killed
    assert results_table.row(tmp_path, 100)[1] == "400"
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 100}\n')
    with pytest.raises(SystemExit, match="no evaluation yet"):
        results_table.row(tmp_path, 0)
    with pytest.raises(SystemExit, match="no run folder"):
        results_table.row(tmp_path / "none", 0)
