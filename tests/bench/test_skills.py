"""Where skills lead, of policies that are known: each skill walks in one direction."""

import dataclasses

import numpy as np
import pytest
import torch

from hmasd.agent import HMASDAgent
from hmasd.bench import skill_maps, where_skills_lead
from hmasd.bench.skill_maps import draw_skills
from hmasd.bench.skills import (
    _reached,
    _visited,
    look_at_skills,
    nearest_distances,
    separation,
)
from hmasd.config import Config
from hmasd.envs.registry import make_env
from tests.helpers.runs import register_small_envs, tiny_config

RIGHT, LEFT, UP, DOWN = range(4)


def walker(directions, config):
    """Networks whose skill z prefers the action directions[z] above all."""
    agent = HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))
    head = agent.networks.actor.body.head
    with torch.no_grad():
        head.weight.zero_()
        for skill, action in enumerate(directions):
            head.weight[action, config.hidden_size + skill] = 50.0
    return agent.networks


@pytest.fixture
def config():
    return Config(num_envs=2, batch_size=16, num_agent_skills=4, hidden_size=8, skill_interval=24)


def test_each_skill_ends_at_its_wall(config):
    found = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config))
    assert [(x["team_skill"], x["skill"]) for x in found["pairs"]] == [
        (team_skill, skill) for team_skill in range(2) for skill in range(4)
    ]
    for pair, (axis, cell) in zip(
        found["pairs"], ((1, 8), (1, 1), (0, 1), (0, 8)) * 2, strict=True
    ):
        assert pair["end"][axis] == cell
        cells = np.array(pair["visited"])
        assert cells.sum() == pytest.approx(1.0, abs=0.02)
        assert np.take(cells, cell, axis=axis).sum() == pytest.approx(1.0, abs=0.02)
        assert 3.0 < pair["nearest"] < 6.0  # from the middle of a wall to the next one's
    assert found["separation"] > 0.15


def test_control_skills_that_do_the_same_are_not_apart(config):
    found = look_at_skills(config, walker((UP, UP, UP, UP), config))
    assert found["separation"] < 0.05
    assert all(pair["nearest"] < 1.5 for pair in found["pairs"])
    assert found["accuracy"] == pytest.approx(0.25, abs=0.1)  # q_d cannot know


def test_corners_are_found_only_by_skills_that_go_there(config):
    config = dataclasses.replace(config, skill_interval=90)
    found = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config))
    assert sorted(map(tuple, found["items"]["cells"])) == [(1, 1), (1, 8), (8, 1), (8, 8)]
    assert found["items"]["reached"] == 0 and found["items"]["of"] == 4
    assert max(found["items"]["best_share"]) < 0.25


def test_the_map_is_whole_though_nobody_stays_below():
    """Somebody started in row 8; in the end both agents of the only pair stay in row 1."""
    position = np.array([[[1, 2], [1, 3]]])
    visited = _visited([(np.array([0]), position)], 1, farthest=8)
    assert visited.shape == (1, 10, 10)
    assert visited[0, 1, 2] == visited[0, 1, 3] == 0.5


def test_an_item_beyond_the_map_is_reached_by_nobody():
    """Starts are drawn: that they touch every wall is likely, not certain."""
    visited = np.zeros((1, 3, 3))
    visited[0, 1, 1] = 1.0
    found = _reached(np.array([[1, 1], [1, 8], [8, 1]]), visited)
    assert found["best_share"] == [1.0, 0.0, 0.0] and found["reached"] == 1 and found["of"] == 3


def test_what_the_coordinator_chooses_adds_up(config):
    chosen = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config))["chosen"]
    assert sum(chosen["team"]) == pytest.approx(1.0)
    assert [sum(x) for x in chosen["agent_given_team"]] == pytest.approx([1.0, 1.0])


def test_one_skill_has_no_other(config):
    config = dataclasses.replace(config, num_team_skills=1, num_agent_skills=1)
    found = look_at_skills(config, walker((RIGHT,), config))
    assert found["separation"] is None and found["pairs"][0]["nearest"] is None
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("env", ["counter", "point", "masked"])
def test_envs_without_cells_are_told_by_their_observations(env, monkeypatch):
    register_small_envs(monkeypatch)
    config = tiny_config(env=env, skill_interval=5)
    agent = HMASDAgent(config, make_env(env, config.num_envs, config.episode_length))
    found = look_at_skills(config, agent.networks)
    assert len(found["pairs"]) == 6 and found["items"] is None
    assert all(pair["visited"] is None for pair in found["pairs"])


def test_separation_by_hand():
    """Feature 0 is told by the pair alone, feature 1 not at all, feature 2 never varies."""
    obs = np.zeros((2, 2, 1, 3))
    obs[1, :, :, 0] = 1.0
    obs[:, 1, :, 1] = 1.0
    assert separation(obs) == pytest.approx(0.5)
    assert separation(obs[..., :1]) == 1.0 and separation(obs[..., 1:]) == 0.0
    assert separation(obs[:1]) is None and separation(np.zeros((2, 2, 1, 3))) is None


def test_nearest_by_hand():
    ends = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert nearest_distances(ends) == pytest.approx([1.0, 18**0.5, 1.0])


def test_the_program_prints_a_row_per_pair_and_draws(config, tmp_path, capsys):
    config = dataclasses.replace(config, skill_interval=90)
    agent = HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))
    agent.played.load_state_dict(walker((RIGHT, LEFT, UP, DOWN), config).state_dict())
    path, picture = tmp_path / "hmasd_sync_enhanced_final.pth", tmp_path / "skills.png"
    agent.save_model(path, config=dataclasses.asdict(config))
    assert where_skills_lead.main([str(path), "--out", str(picture)]) == 0
    head, _, *rows = (line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines())
    assert [cell.strip() for cell in head[5:]] == [
        "on (1, 1)",
        "on (1, 8)",
        "on (8, 1)",
        "on (8, 8)",
    ]
    assert len(rows) == 8 and rows[0][2].strip().endswith(", 8.0")  # skill 0: the right wall
    assert picture.stat().st_size > 5000
    assert where_skills_lead.main([str(tmp_path / "none.pth")]) == 1
    assert "none.pth" in capsys.readouterr().err


def test_an_item_beyond_the_map_has_a_share_of_nothing(config):
    """Starts are drawn: that one of them is in the last row is likely, not certain."""
    found = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config))
    for pair in found["pairs"]:
        pair["visited"] = [[0.0, 0.0], [0.0, 1.0]]  # all that anybody came to was (1, 1)
    head, *rows = where_skills_lead.skill_table(found)
    assert sorted(head[5:]) == ["on (1, 1)", "on (1, 8)", "on (8, 1)", "on (8, 8)"]
    assert all(sorted(row[5:]) == ["0%", "0%", "0%", "100%"] for row in rows)


def test_a_picture_that_cannot_be_drawn_is_an_error(tmp_path, monkeypatch, capsys):
    register_small_envs(monkeypatch)
    config = tiny_config(env="point", skill_interval=5)
    agent = HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))
    path, picture = tmp_path / "hmasd_sync_enhanced_final.pth", tmp_path / "skills.png"
    agent.save_model(path, config=dataclasses.asdict(config))
    assert where_skills_lead.main([str(path), "--out", str(picture)]) == 1
    told = capsys.readouterr()
    assert f"error: --out {picture}: there is nothing to draw, since point has no" in told.err
    assert told.out.startswith("| Z | z |") and not picture.exists()
    assert where_skills_lead.main([str(path)]) == 0  # control: the table alone


def test_the_maps_have_a_row_per_moment_and_team_skill(config):
    found = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config)) | {"env_steps": 7}
    figure = draw_skills({"before_success": None, "last": found})
    assert len(figure.axes) == 8
    image = figure.axes[0].images[0].get_array()  # skill 0 goes right
    assert image.shape == (8, 8) and image[:, -1].sum() > 5 * image[:, :-1].sum()


def test_a_row_that_is_too_long_goes_on_in_the_next(config, monkeypatch):
    monkeypatch.setattr(skill_maps, "MAPS_PER_ROW", 3)
    found = look_at_skills(config, walker((RIGHT, LEFT, UP, DOWN), config))
    figure = draw_skills({"last": found})
    titles = [axis.get_title(loc="left").split(":")[0] for axis in figure.axes]
    assert titles == ["z 0", "z 1", "z 2", "z 3"] * 2  # and no empty maps beside the fourth
    assert [len(part.axes) for part in figure.subfigs] == [3, 1, 3, 1]
