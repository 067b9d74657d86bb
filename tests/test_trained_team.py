"""A team loaded from a checkpoint plays exactly as evaluation does, and as it is told."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from hmasd import checkpoint
from hmasd.checkpoint import CheckpointError
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.presets import CHANGES
from hmasd.settings import ConfigError
from hmasd.trained_team import TrainedTeam
from hmasd.training import evaluation
from hmasd.training.evaluation import play_episodes
from tests.helpers.runs import make_agent, play_rounds, register_small_envs, tiny_config

MODES = ("greedy", "stochastic")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    register_small_envs(monkeypatch)
    return tiny_config(output_dir=str(tmp_path))


def saved(config: Config, rounds: int = 2):
    """An agent that has learned for some rounds, and its checkpoint."""
    agent, env, view = make_agent(config)
    play_rounds(agent, env, view, rounds)
    path = Path(config.output_dir) / "models" / "team.pth"
    agent.save_model(path, config=dataclasses.asdict(config))
    return agent, path


def actions_of_evaluation(config, networks, mode, num_envs, seed, monkeypatch):
    """What `play_episodes` plays: [T, E, N, ...]."""
    actions = []

    def make(*arguments):
        env = registry.make_env(*arguments)
        step = env.step
        env.step = lambda action: (actions.append(action.copy()), step(action))[1]
        return env

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "make_env", make)
        play_episodes(config, networks, mode, num_envs, seed)
    return np.stack(actions)


def actions_of_team(team: TrainedTeam, seed: int, draw_seed: int | None, shape, tell_ends=True):
    """What the team plays by itself in the same envs; shape: (T, E)."""
    steps, num_envs = shape
    env = registry.make_env(team.config.env, num_envs, team.config.episode_length)
    view, ended = env.reset(seed), None
    team.reset(num_envs, draw_seed)
    actions = []
    for _ in range(steps):
        actions.append(team.act(view.obs, view.state, view.action_mask, ended))
        step = env.step(actions[-1])
        view = step.view
        ended = step.terminated | step.truncated if tell_ends else None
    return np.stack(actions)


VARIANTS = [
    {},
    {"agent_id": True, "reset_hidden_on_skill": True},
    {"critic_head": "team", "skill_input": "input"},
    {"env": "point", "skill_interval": 2},
    {"env": "masked", "episode_length": 9},
    CHANGES["mappo"],
    CHANGES["ippo"] | {"agent_id": True},
    CHANGES["mat"],
    CHANGES["mat"] | {"env": "masked", "episode_length": 9},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_it_plays_what_evaluation_plays_to_the_last_bit(
    config: Config, monkeypatch: pytest.MonkeyPatch, changes, mode
) -> None:
    agent, path = saved(dataclasses.replace(config, **changes))
    expected = actions_of_evaluation(agent.config, agent.played, mode, 5, 3, monkeypatch)
    team = TrainedTeam.load(path)
    shape = (len(expected), 5)
    played = actions_of_team(team, 3, 3 if mode == "stochastic" else None, shape)
    assert played.dtype == expected.dtype and played.tobytes() == expected.tobytes()
    again = actions_of_team(team, 3, 3 if mode == "stochastic" else None, shape)
    assert again.tobytes() == expected.tobytes(), "reset() forgets all that was played"


def test_a_policy_file_plays_what_its_checkpoint_plays(config: Config) -> None:
    """The best policy that a comparison keeps is such a file."""
    agent, path = saved(config)
    policy = path.with_name("policy_0.pth")
    evaluation.save_policy(policy, agent)
    teams = TrainedTeam.load(path), TrainedTeam.load(policy)
    one, other = (actions_of_team(team, 3, 3, (12, 5)) for team in teams)
    assert one.tobytes() == other.tobytes()
    assert policy.stat().st_size < path.stat().st_size


def test_control_untold_ends_and_other_draws_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, path = saved(config)
    expected = actions_of_evaluation(config, agent.played, "stochastic", 5, 3, monkeypatch)
    team, shape = TrainedTeam.load(path), (len(expected), 5)
    assert (actions_of_team(team, 3, 4, shape) != expected).any()
    assert (actions_of_team(team, 3, 3, shape, tell_ends=False) != expected).any()


def test_the_checkpoint_alone_tells_the_sizes(config: Config, monkeypatch) -> None:
    paths = {
        env: saved(dataclasses.replace(config, env=env, agent_id=True, output_dir=f"{o}/{env}"))[1]
        for o in [config.output_dir]
        for env in ("counter", "point", "masked")
    }
    envs = {name: registry.make_env(name, 1, 7) for name in paths}
    for name in paths:
        monkeypatch.delitem(registry._MAKERS, name)
    for name, path in paths.items():
        team, env = TrainedTeam.load(path), envs[name]
        assert (team.num_agents, team.obs_size, team.state_size) == (
            env.num_agents,
            env.obs_size,
            env.state_size,
        )
        assert team.config.env == name
    assert TrainedTeam.load(paths["masked"]).action_space == Discrete(4)
    space = TrainedTeam.load(paths["point"]).action_space
    assert isinstance(space, Box) and space.shape == (1,)


def test_loading_imports_nothing_of_training_and_draws_nothing(config: Config) -> None:
    _, path = saved(config)
    before = torch.get_rng_state()
    TrainedTeam.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    program = (
        "import sys; from hmasd.trained_team import TrainedTeam; "
        f"TrainedTeam.load({str(path)!r}); print([m for m in sys.modules if m.startswith("
        "('hmasd.training', 'hmasd.agent', 'hmasd.envs.', 'hmasd.algorithm', 'tensorboard'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def views(team: TrainedTeam, steps: int, num_envs: int):
    generator = np.random.default_rng(0)
    for _ in range(steps):
        yield (
            generator.normal(size=(num_envs, team.num_agents, team.obs_size)),
            generator.normal(size=(num_envs, team.state_size)),
        )


def test_skills_change_with_the_clock_and_with_the_episode(config: Config) -> None:
    _, path = saved(dataclasses.replace(config, skill_interval=4, num_agent_skills=50))
    team = TrainedTeam.load(path)
    team.reset(num_envs=2, seed=0)
    shown = []
    for step, (obs, state) in enumerate(views(team, 12, 2)):
        team.act(obs, state, ended=[step == 6, False])  # the new episode's first step is step 6
        assert team.team_skill.shape == (2,) and team.agent_skills.shape == (2, 2)
        shown.append(team.agent_skills)
    changed = [(shown[t] != shown[t - 1]).any(axis=1).tolist() for t in range(1, 12)]
    assert [t for t, (first, _) in enumerate(changed, 1) if first] == [4, 6, 10]
    assert [t for t, (_, second) in enumerate(changed, 1) if second] == [4, 8]


@pytest.mark.parametrize("draw_seed", [None, 5])
def test_forced_skills_are_played_until_they_are_freed(config: Config, draw_seed) -> None:
    _, path = saved(config)
    team = TrainedTeam.load(path)
    team.force(team_skill=1, agent_skills=(2, 0))
    team.reset(num_envs=3, seed=draw_seed)
    for obs, state in views(team, 10, 3):
        team.act(obs, state)
        assert (team.team_skill == 1).all() and (team.agent_skills == [2, 0]).all()
    team.force(agent_skills=(0, 0))
    (obs, state), *_ = views(team, 1, 3)
    team.act(obs, state)
    assert (team.agent_skills == 0).all(), "at once, not at the next decision"


def test_a_forced_team_skill_is_known_to_the_agents_choices(config: Config) -> None:
    """Else forcing Z would show what agents do that follow another Z."""
    config = dataclasses.replace(config, num_agent_skills=9)
    agent, _ = saved(config, rounds=0)
    with torch.no_grad():  # fresh decoders hardly listen
        for weight in agent.played.coordinator.parameters():
            if weight.ndim > 1:
                torch.nn.init.orthogonal_(weight, 3.0)
    path = Path(config.output_dir) / "attentive.pth"
    agent.save_model(path, config=dataclasses.asdict(config))
    team, num_envs = TrainedTeam.load(path), 400
    (obs, state), *_ = views(team, 1, num_envs)
    seen = torch.from_numpy(state).float(), torch.from_numpy(obs).float()

    def logps(team_skill: int) -> torch.Tensor:
        """Of all choices of the first agent under Z, teacher-forced: [n_z, E]."""
        skills = torch.full((num_envs,), team_skill)
        agents = torch.arange(9).view(9, 1, 1).expand(9, num_envs, 2)
        scores = (agent.played.coordinator.evaluate(*seen, skills, z) for z in agents)
        return torch.stack([score.logp[:, 1] for score in scores])

    chosen = []
    for team_skill in range(2):
        team.force(team_skill=team_skill)
        team.reset(num_envs)
        team.act(obs, state)
        chosen.append(torch.from_numpy(team.agent_skills[:, 0]))
        assert torch.equal(logps(team_skill).argmax(0), chosen[-1])
    assert not torch.equal(logps(0).argmax(0), chosen[1]), "the control: both Z lead to the same"


def test_forced_skills_change_what_is_done(config: Config) -> None:
    _, path = saved(dataclasses.replace(config, skill_gain=30.0))
    team = TrainedTeam.load(path)
    (obs, state), *_ = views(team, 1, 20)
    actions = []
    for skill in range(3):
        team.force(agent_skills=(skill, skill))
        team.reset(20)
        actions.append(team.act(obs, state))
    assert (actions[0] != actions[1]).any() or (actions[0] != actions[2]).any()


@pytest.mark.parametrize(
    ("skills", "words"),
    [
        ({"team_skill": 2}, "Z = 2 does not exist: this team has 0..1"),
        ({"team_skill": -1}, "Z = -1"),
        ({"agent_skills": (0, 3)}, "agent 1's skill z = 3 does not exist: this team has 0..2"),
        ({"agent_skills": (0,)}, "1 agent skills (0,) for 2 agents"),
    ],
)
def test_skills_that_do_not_exist_are_named(config: Config, skills, words) -> None:
    team = TrainedTeam.load(saved(config, rounds=0)[1])
    with pytest.raises(ValueError) as caught:
        team.force(**skills)
    assert words in str(caught.value)


def test_wrong_arrays_are_named_and_nothing_is_done(config: Config) -> None:
    _, path = saved(config, rounds=0)
    team = TrainedTeam.load(path)
    obs, state = np.ones((1, 2, 4)), np.ones((1, 3))
    bad = obs.copy()
    bad[0, 1, 2] = np.nan
    for arguments, words in (
        ((obs[0], state), "obs has shape (2, 4), but must have (1, 2, 4)"),
        ((obs, state[0]), "state[None]"),
        ((obs, state, np.ones((1, 2, 2))), "action_mask has shape (1, 2, 2)"),
        ((obs, state, None, [True, False]), "ended has shape (2,)"),
        ((bad, state), "obs[0, 1, 2] is nan"),
    ):
        with pytest.raises(ValueError) as caught:
            team.act(*arguments)
        assert words in str(caught.value)
    assert team._team.clock.due.all(), "no skill was chosen"
    with pytest.raises(ValueError, match="num_envs is 0"):
        team.reset(0)
    _, path = saved(dataclasses.replace(config, env="point"), rounds=0)
    with pytest.raises(ValueError, match="continuous: leave action_mask out"):
        TrainedTeam.load(path).act(np.ones((1, 2, 2)), np.ones((1, 3)), np.ones((1, 2, 1)))


def test_files_that_hold_no_team_are_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        TrainedTeam.load(tmp_path / "none.pth")
    checkpoint.save(tmp_path / "other.pth", {"numbers": [1, 2]})
    with pytest.raises(CheckpointError, match="holds no trained team"):
        TrainedTeam.load(tmp_path / "other.pth")
    agent, path = saved(config, rounds=0)
    agent.save_model(path, config=dataclasses.asdict(config) | {"warp": 9})
    with pytest.raises(ConfigError, match="no setting 'warp'"):
        TrainedTeam.load(path)


def test_skills_that_training_chose_by_chance_stay_so(config: Config) -> None:
    _, path = saved(dataclasses.replace(config, **CHANGES["no_high_level"]))
    team = TrainedTeam.load(path)
    obs, state = np.zeros((40, 2, team.obs_size)), np.zeros((40, team.state_size))
    team.reset(num_envs=40)
    team.act(obs, state)
    seen = team.team_skill, team.agent_skills
    assert set(seen[0]) == {0, 1} and set(seen[1].ravel()) == {0, 1, 2}
    team.reset(num_envs=40)
    team.act(obs, state)
    assert (team.agent_skills == seen[1]).all(), "greedy play is the same every time"
    team.force(team_skill=1, agent_skills=[2, 0])
    team.act(obs, state)
    assert (team.team_skill == 1).all() and (team.agent_skills == [2, 0]).all()
