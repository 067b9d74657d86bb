"""Evaluation plays the episodes it says, and tells what happened in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.rollout.episodes import EpisodeTracker
from hmasd.training import evaluation
from hmasd.training.evaluation import evaluate, evaluate_checkpoint, play_episodes
from hmasd.types import EnvOptions, EnvStep, EnvView
from tests.helpers.envs import ToyEnv
from tests.helpers.runs import differences, make_agent, play_rounds, run, snapshot


class Scripted(ToyEnv):
    """Env e ends after e % 4 + 2 steps, pays e in each, and succeeds where e is even."""

    def __init__(self, num_envs: int, episode_length: int) -> None:
        super().__init__(num_envs, 2, (3, 2), Discrete(3), episode_length)
        self.log: list[np.ndarray] = []

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.log.append(action.copy())
        envs = np.arange(self.num_envs)
        over = self.memory["clock"] + 1 >= envs % 4 + 2
        return envs.astype(float), over & (envs % 2 == 0), over & (envs % 2 == 1)

    def _view(self) -> EnvView:
        state = np.ones((self.num_envs, 2), dtype=np.float32)
        state[:, 1] = self.memory["clock"]
        obs = np.ones((self.num_envs, 2, 3), dtype=np.float32)
        obs[:, :, 1] = self.memory["clock"][:, None]
        obs[:, :, 2] = np.arange(2)
        return EnvView(obs, state)


@pytest.fixture
def scripted(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setitem(registry._MAKERS, "scripted", Scripted)
    return dataclasses.replace(config, env="scripted", eval_episodes=7)


def check_episodes(config: Config) -> None:
    agent, _, _ = make_agent(config)
    for mode in ("greedy", "stochastic"):
        played = play_episodes(config, agent.networks, mode, 7, seed=5)
        assert [
            (episode.env, episode.episode_return, episode.length, episode.success)
            for episode in played
        ] == [(e, float(e * (e % 4 + 2)), e % 4 + 2, e % 2 == 0) for e in range(7)]


def test_each_episode_is_the_first_of_its_env(scripted: Config) -> None:
    """Taking those that end first would count short episodes more often than long ones."""
    check_episodes(scripted)


def test_control_a_wrong_account_is_caught(
    scripted: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(EpisodeTracker):
        def add(self, step: EnvStep):
            return super().add(step._replace(reward=np.roll(step.reward, 1)))

    monkeypatch.setattr(evaluation, "EpisodeTracker", Late)
    with pytest.raises(AssertionError):
        check_episodes(scripted)


def test_control_the_first_to_end_instead_of_each_envs_first_are_caught(
    scripted: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InOrderOfEnding(EpisodeTracker):
        def add(self, step: EnvStep):
            start = self.finished
            return [episode._replace(env=start + i) for i, episode in enumerate(super().add(step))]

    monkeypatch.setattr(evaluation, "EpisodeTracker", InOrderOfEnding)
    with pytest.raises(AssertionError):
        check_episodes(scripted)


def test_metrics_and_rows_of_an_evaluation(scripted: Config) -> None:
    agent, _, _ = make_agent(scripted)
    metrics, rows = evaluate(agent)
    lengths = [e % 4 + 2 for e in range(7)]
    returns = [e * length for e, length in enumerate(lengths)]
    for mode in ("greedy", "stochastic"):
        assert metrics[f"eval/{mode}_success"] == pytest.approx(4 / 7)
        assert metrics[f"eval/{mode}_length"] == pytest.approx(np.mean(lengths))
        assert metrics[f"eval/{mode}_return"] == pytest.approx(np.mean(returns))
        chosen = [row for row in rows if row["mode"] == mode]
        assert [row["episode"] for row in chosen] == list(range(7))
        assert [row["length"] for row in chosen] == lengths
        assert [row["success"] for row in chosen] == [e % 2 == 0 for e in range(7)]
    assert len(rows) == 14 and {row["policy_version"] for row in rows} == {0}


def actions_of(
    config: Config, agent: HMASDAgent, mode: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    made: list[Scripted] = []

    def make(name: str, num_envs: int, episode_length: int, options: EnvOptions) -> Scripted:
        made.append(Scripted(num_envs, episode_length))
        return made[-1]

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "make_env", make)
        play_episodes(config, agent.networks, mode, 7, seed)
    return np.stack(made[0].log)


def test_greedy_play_is_deterministic_and_stochastic_play_follows_its_seed(
    scripted: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _, _ = make_agent(scripted)

    def actions(mode: str, seed: int) -> np.ndarray:
        return actions_of(scripted, agent, mode, seed, monkeypatch)

    assert (actions("greedy", 1) == actions("greedy", 2)).all()
    first = actions("greedy", 1)[0]  # [E, N]
    assert (first == first[:1]).all(), "the same view in all envs, but not the same action"
    assert (actions("stochastic", 1) == actions("stochastic", 1)).all()
    assert (actions("stochastic", 1) != actions("stochastic", 2)).any()


def test_evaluation_touches_neither_the_agent_nor_global_randomness(config: Config) -> None:
    agent, env, view = make_agent(config)
    play_rounds(agent, env, view, 2)
    before, torch_state = snapshot(agent), torch.get_rng_state()
    numpy_state = str(np.random.get_state())
    evaluate(agent)
    assert differences(snapshot(agent), before) == []
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state


def test_eval_only_writes_json_and_a_table(
    scripted: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = run(dataclasses.replace(scripted, total_steps=24))
    path = str(trained.last_checkpoint)
    data = Path(path).read_bytes()
    other = dataclasses.replace(
        scripted, model_path=path, eval_only=True, output_dir=str(tmp_path / "evaluated")
    )
    capsys.readouterr()
    assert evaluate_checkpoint(other) == 0
    shown = capsys.readouterr().out
    (written,) = (tmp_path / "evaluated" / "runs").glob("*/evaluation.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["env_steps"] == 24 and report["policy_version"] == 2
    assert report["model_path"] == path and report["config"]["env"] == "scripted"
    assert len(report["episodes"]) == 14
    assert report["summary"]["eval/greedy_success"] == pytest.approx(4 / 7)
    for word in ("greedy", "stochastic", "57.1%", "3.29", written.name):
        assert word in shown, word
    assert Path(path).read_bytes() == data
    metrics, rows = evaluate(trained.agent)
    assert report["summary"] == metrics, "the checkpoint plays as the agent that it was saved from"
    assert report["episodes"] == rows
