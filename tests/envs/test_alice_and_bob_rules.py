"""The rules of Alice_and_Bob, side by side with a slow game that was written apart."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.alice_and_bob import AliceAndBob
from hmasd.types import EnvStep, EnvView
from tests.envs.reference_game import CELLS, PICTURE, ReferenceGame, picture_of

RIGHT, LEFT, UP, DOWN, STAY = range(5)
KEY, GOAL = ((1, 8), (1, 1)), ((8, 1), (8, 8))


def begin(
    positions: list, collected: tuple[bool, bool] = (False, False), clock: int = 0
) -> AliceAndBob:
    """One env per pair of cells in `positions`, brought into the given situation."""
    env = AliceAndBob(len(positions))
    env.reset(0)
    state = env.get_state()
    state["position"][:] = positions
    state["collected"][:] = collected
    state["clock"][:] = clock
    env.set_state(state)
    return env


def games_of(
    view: EnvView, episode_length: int, picture: list[str] = PICTURE
) -> list[ReferenceGame]:
    """Reference games that start where the agents stand in `view`."""
    cells = view.obs[:, :, 9:].astype(int)
    return [
        ReferenceGame(tuple(a), tuple(b), episode_length, picture=picture)
        for a, b in cells.tolist()
    ]


def assert_same(game: ReferenceGame, obs: np.ndarray, state: np.ndarray) -> None:
    """The env's arrays of one game are the reference's."""
    assert state.reshape(len(game.picture), -1).tolist() == game.map()
    assert obs.tolist() == [game.observation(0), game.observation(1)]


def walk_to(rng: np.random.Generator, view: EnvView, target: np.ndarray) -> np.ndarray:
    """Actions that lead each agent to its target cell [E, 2, 2]; some are random."""
    away = target - view.obs[:, :, 9:].astype(int)
    down = np.where(away[:, :, 0] > 0, DOWN, UP)
    right = np.where(away[:, :, 1] > 0, RIGHT, LEFT)
    action = np.where(away[:, :, 0] != 0, down, np.where(away[:, :, 1] != 0, right, STAY))
    chance = rng.random(action.shape)
    return np.where(chance < 0.1, rng.integers(0, 5, size=action.shape), action)


@pytest.mark.parametrize(("length", "directed"), [(100, False), (23, False), (100, True)])
def test_equals_the_reference_over_many_episodes(length: int, directed: bool) -> None:
    env, rng = AliceAndBob(16, length), np.random.default_rng(length)
    view = env.reset(length + directed)
    games = games_of(view, length)
    cells = np.array([*KEY, *GOAL])
    target = rng.choice(cells, size=(16, 2))
    ends, wins, single = 0, 0, 0
    for number in range(800):
        if number % 18 == 0:
            target = rng.choice(cells, size=(16, 2))
        action = walk_to(rng, view, target) if directed else rng.integers(0, 5, size=(16, 2))
        step = env.step(action)
        for e, game in enumerate(games):
            ended = follow(game, action[e], step, e)
            single += len(game.taken) == 1
            if ended:
                ends, wins = ends + 1, wins + step.terminated[e]
                games[e] = games_of(step.view, length)[e]
            assert_same(games[e], step.view.obs[e], step.view.state[e])
        view = step.view
    assert ends > 100
    if directed:  # else the comparison would have seen no diamond at all
        assert wins > 50
        assert single > 500


def follow(game: ReferenceGame, action: np.ndarray, step: EnvStep, e: int) -> bool:
    """Play the same in the reference, compare all that env e said; returns whether it ended."""
    reward, terminated, truncated = game.step(*action.tolist())
    assert (step.reward[e], step.terminated[e]) == (reward, terminated)
    assert (step.truncated[e], step.success[e]) == (truncated, terminated)
    assert_same(game, step.final_obs[e], step.final_state[e])
    return terminated or truncated


@pytest.mark.parametrize(("size", "pairs"), CELLS)
def test_the_whole_family_equals_the_reference(size: int, pairs: int) -> None:
    """Agents that walk together to a random key and its diamond, so that episodes are won."""
    envs, length, patience = 8, 10 * size, 2 * size + 4
    env, rng = AliceAndBob(envs, length, size=size, num_pairs=pairs), np.random.default_rng(size)
    picture = picture_of(size, pairs)
    view = env.reset(pairs)
    games = games_of(view, length, picture)
    wins = np.zeros(pairs + 1, dtype=int)  # episodes by the number of diamonds collected
    for number in range(20 * patience):
        if number % patience == 0:
            chosen = [game.pairs[rng.integers(pairs)] for game in games]
            target = np.array([[g.cells[x] for x in p] for g, p in zip(games, chosen, strict=True)])
        action = walk_to(rng, view, target)
        step = env.step(action)
        for e, game in enumerate(games):
            if follow(game, action[e], step, e):
                wins[len(game.taken)] += 1
                games[e] = games_of(step.view, length, picture)[e]
            assert_same(games[e], step.view.obs[e], step.view.state[e])
        view = step.view
    assert wins[:-1].sum() > 0
    assert wins[-1] > 0


def test_size_8_with_2_pairs_is_drawn_as_the_guide_draws_it() -> None:
    assert picture_of(8, 2) == PICTURE


def play(env: AliceAndBob, *actions: int) -> EnvStep:
    """Play the same pair of actions in all envs."""
    return env.step(np.tile(np.array(actions), (env.num_envs, 1)))


def test_walls_block_and_agents_do_not() -> None:
    env = begin([((1, 1), (8, 8)), ((4, 4), (4, 5))])
    step = play(env, LEFT, RIGHT)
    np.testing.assert_array_equal(step.view.obs[0, :, 9:], [(1, 1), (8, 8)])
    np.testing.assert_array_equal(step.view.obs[1, :, 9:], [(4, 3), (4, 6)])
    env = begin([((1, 1), (8, 8)), ((4, 4), (4, 5))])
    step = play(env, UP, DOWN)
    np.testing.assert_array_equal(step.view.obs[0, :, 9:], [(1, 1), (8, 8)])
    swap = play(begin([((4, 4), (4, 5))]), RIGHT, LEFT)
    np.testing.assert_array_equal(swap.view.obs[0, :, 9:], [(4, 5), (4, 4)])


def test_a_shared_cell_shows_agent_1_and_whoever_stays_is_drawn() -> None:
    env = begin([((4, 4), (4, 5))])
    step = play(env, STAY, LEFT)
    assert step.view.state[0].reshape(10, 10)[4, 4] == 3
    assert step.view.obs[0, 0, 4] == 2
    assert step.view.obs[0, 1, 4] == 3
    assert (step.view.state == 2).sum() == 0
    shared = env.get_state()
    step = play(env, UP, STAY)
    assert step.view.state[0].reshape(10, 10)[3:5, 4].tolist() == [2, 3]
    env.set_state(shared)
    step = play(env, STAY, UP)
    assert step.view.state[0].reshape(10, 10)[3:5, 4].tolist() == [3, 2]


@pytest.mark.parametrize("pair", [0, 1])
@pytest.mark.parametrize("holder", [0, 1])
def test_a_diamond_needs_its_own_key_in_the_same_step(pair: int, holder: int) -> None:
    def collected(key: tuple, goal: tuple) -> np.ndarray:
        cells = [key, goal] if holder == 0 else [goal, key]
        env = begin([cells])
        play(env, STAY, STAY)
        return env.get_state()["collected"][0]

    assert collected(KEY[pair], GOAL[pair]).tolist() == [pair == 0, pair == 1]
    assert not collected(KEY[1 - pair], GOAL[pair]).any()
    assert not collected((4, 4), GOAL[pair]).any()
    assert not collected(GOAL[pair], GOAL[pair]).any()


def test_key_and_diamond_reached_or_left_in_one_step() -> None:
    env = begin([((1, 7), (7, 1))])  # both arrive
    step = play(env, RIGHT, DOWN)
    assert env.get_state()["collected"].tolist() == [[True, False]]
    assert step.reward[0] == 0
    env = begin([((1, 8), (7, 1))])  # the key is left as the diamond is reached
    play(env, LEFT, DOWN)
    assert not env.get_state()["collected"].any()


def test_a_key_handed_over_in_one_step_stays_held() -> None:
    env = begin([((1, 8), (2, 8))])
    step = play(env, DOWN, UP)
    game = step.view.state[0].reshape(10, 10)
    assert game[1, 8] == 3
    assert game[2, 8] == 2
    assert (step.view.state == 4).sum() == 0


def test_a_collected_diamond_is_gone_for_good_and_its_key_comes_back() -> None:
    env = begin([((1, 8), (8, 1))])
    play(env, STAY, STAY)
    step = play(env, LEFT, UP)
    assert (step.view.state == 6).sum() == 0
    assert (step.view.state == 4).sum() == 1
    assert (step.view.state == 7).sum() == 1


@pytest.mark.parametrize("clock", [0, 99])
def test_the_second_diamond_pays_and_terminates_even_on_the_last_step(clock: int) -> None:
    env = begin([((1, 1), (8, 7))], collected=(True, False), clock=clock)
    step = play(env, STAY, RIGHT)
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (1, True, False)
    assert step.success[0]
    assert step.final_obs[0, :, 9:].tolist() == [[1, 1], [8, 8]]
    assert (step.final_state == 7).sum() == 0
    assert (step.view.state == 7).sum() == 1  # or an agent starts on it: not with this seed
    assert env.get_state()["clock"][0] == 0


def test_truncation_delivers_the_state_that_was_reached() -> None:
    env = begin([((4, 4), (6, 6))], collected=(False, True), clock=99)
    step = play(env, RIGHT, UP)
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (0, False, True)
    assert not step.success[0]
    assert step.final_obs[0, :, 9:].tolist() == [[4, 5], [5, 6]]
    assert step.final_state[0].reshape(10, 10)[5, 6] == 3
    assert (step.final_state == 7).sum() == 0
    assert not np.array_equal(step.final_state, step.view.state)


@pytest.fixture(scope="module")
def transitions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole game by the shipped rules.

    Returns:
        position [3 * 4096, 2, 2] and collected [.., 2] of each situation (none, first, second
        diamond collected), and where the 25 pairs of actions lead: [25, ..], -1 is the win.
    """
    cells = [(row, column) for row in range(1, 9) for column in range(1, 9)]
    pairs = np.array([(a, b) for a in cells for b in cells])  # [4096, 2, 2]
    position = np.tile(pairs, (3, 1, 1))
    collected = np.repeat([(False, False), (True, False), (False, True)], len(pairs), axis=0)
    env = AliceAndBob(len(position), episode_length=10)
    env.reset(0)
    start = {**env.get_state(), "position": position, "collected": collected}
    start["clock"] = np.zeros(len(position), dtype=np.int64)
    table = []
    for first in range(5):
        for second in range(5):
            env.set_state(start)
            won = play(env, first, second).terminated.copy()
            after = env.get_state()
            cell = (after["position"] - 1) @ [8, 1]  # [.., 2]
            phase = after["collected"] @ [1, 2]
            table.append(np.where(won, -1, phase * 4096 + cell @ [64, 1]))
    return position, collected, np.array(table)


def test_optimum_by_breadth_first_search(transitions: tuple) -> None:
    position, _, table = transitions
    steps = np.full(len(position) + 1, 1000)
    steps[-1] = 0  # the win, index -1
    for _ in range(40):
        steps[:-1] = np.minimum(steps[:-1], 1 + steps[table].min(axis=0))
    starts = (position[:4096, 0] != position[:4096, 1]).any(axis=1)
    optimum = steps[:4096][starts]
    assert len(optimum) == 64 * 63
    assert (optimum.min(), optimum.max()) == (8, 17)
    assert optimum.mean() == pytest.approx(12.763, abs=5e-4)


def test_no_step_collects_both_diamonds(transitions: tuple) -> None:
    _, collected, table = transitions
    from_none = table[:, ~collected.any(axis=1)]
    assert (from_none >= 0).all()
    assert (from_none >= 4096).any()


def test_random_team_by_the_exact_chances(transitions: tuple) -> None:
    position, _, table = transitions
    starts = (position[:4096, 0] != position[:4096, 1]).any(axis=1)
    chance = np.zeros(len(position) + 1)  # the last one is the win, index -1
    chance[:4096] = starts / starts.sum()
    lead = np.concatenate([table, np.full((25, 1), -1)], axis=1) % len(chance)  # [25, ..]
    for _ in range(100):
        chance = np.bincount(lead.ravel(), np.tile(chance / 25, 25), minlength=len(chance))
    first, second, won = chance[4096:8192].sum(), chance[8192:-1].sum(), chance[-1]
    assert chance.sum() == pytest.approx(1)
    assert won == pytest.approx(0.000229, rel=0.01)
    assert first + won == pytest.approx(0.02376, rel=0.01)  # the first diamond, at any time
    assert second == pytest.approx(first)


def test_random_team_by_play() -> None:
    envs, rounds, wins = 20_000, 3, 0
    single = np.zeros(2)
    env, rng = AliceAndBob(envs, episode_length=101), np.random.default_rng(0)
    for seed in range(rounds):
        env.reset(seed)
        won = np.zeros(envs, dtype=bool)
        for _ in range(100):
            won |= env.step(rng.integers(0, 5, size=(envs, 2), dtype=np.int64)).success
        wins += won.sum()
        single += (won[:, None] | env.get_state()["collected"]).sum(axis=0)
    assert 2 <= wins <= 32  # 0.0229 % of 60 000 is 14
    assert ((single / (envs * rounds) > 0.0215) & (single / (envs * rounds) < 0.0255)).all()
