"""JaxMARL's games in the contract, against the real package; battles by hand-made situations."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.contract import check_env, random_action
from hmasd.envs.extras import install_line
from hmasd.envs.registry import make_env
from hmasd.types import EnvOptions, EnvStep, EnvView

pytest.importorskip("jaxmarl", reason=f"JaxMARL is not installed: {install_line('jaxmarl')}")
pytestmark = pytest.mark.timeout(900)  # a battle's step takes a while to compile

from hmasd.envs.jaxmarl_env import JaxMarlEnv, make_jaxmarl  # noqa: E402
from hmasd.envs.smax import make_smax  # noqa: E402
from hmasd.envs.smax_picture import ENEMY  # noqa: E402

EAST, STOP, ATTACK = 1, 4, 5  # an attack on enemy i is ATTACK + i
BATTLE = ".game.state."
LENGTH = 30


@pytest.fixture(scope="module")
def battles() -> JaxMarlEnv:
    """Eight battles of three marines each side; compiled once."""
    return make_smax(8, LENGTH, "3m")


def attack(view: EnvView) -> np.ndarray:
    """Everyone shoots the first enemy in reach, else walks towards them; [E, N]."""
    can = view.action_mask[..., ATTACK:]
    action = np.where(can.any(-1), ATTACK + can.argmax(-1), EAST)
    return np.where(view.alive, action, STOP)


def situation(env: JaxMarlEnv, clock: int = 0, **arrays: object) -> None:
    """Bring all battles into one situation: parts of SMAX's state, the allies first."""
    env.reset(0)
    state = env.get_state()
    for name, value in arrays.items():
        state[BATTLE + name][:] = value
    state[BATTLE + "unit_alive"][:] = state[BATTLE + "unit_health"] > 0
    state[".clock"][:] = clock
    env.set_state(state)


def play(env: JaxMarlEnv, *actions: int) -> EnvStep:
    return env.step(np.tile(np.array(actions), (env.num_envs, 1)))


# allies in a column with enemies 1 to the east, in everybody's reach
FACING = np.array([[10, 10], [10, 12], [10, 14], [11, 10], [11, 12], [11, 14]], dtype=np.float32)


def test_battles_follow_the_contract(battles: JaxMarlEnv) -> None:
    assert (battles.num_agents, battles.obs_size, battles.state_size) == (3, 75, 72)
    assert battles.action_space.n == 8
    assert check_env(battles, steps=120, seed=1) == []


@pytest.mark.parametrize(
    ("name", "args", "sizes"),
    [
        ("smax_2s3z", "", (5, 127, 120)),
        ("jaxmarl:overcooked", "{layout: cramped_room}", (2, 520, 1040)),
        ("jaxmarl:MPE_simple_spread_v3", "", (3, 18, 54)),
        ("jaxmarl:MPE_simple_spread_v3", "{action_type: Continuous}", (3, 18, 54)),
        ("jaxmarl:MPE_simple_speaker_listener_v4", "", (2, 11, 22)),
    ],
)
def test_games_follow_the_contract(name: str, args: str, sizes: tuple[int, int, int]) -> None:
    env = make_env(name, 4, 12, EnvOptions(args))
    assert (env.num_agents, env.obs_size, env.state_size) == sizes
    assert check_env(env, steps=40, seed=2) == []


def test_attack_only_play_wins_half_of_the_battles_and_random_play_none(
    battles: JaxMarlEnv,
) -> None:
    ends, wins = {"attack": 0, "random": 0}, {"attack": 0, "random": 0}
    rng = np.random.default_rng(0)
    for name in ends:
        view = battles.reset(4)
        for _ in range(1500):
            action = attack(view) if name == "attack" else random_action(battles, view, rng)
            step = battles.step(action)
            np.testing.assert_array_equal(step.reward, step.success)  # 1 for a win, else 0
            ends[name] += int((step.terminated | step.truncated).sum())
            wins[name] += int(step.success.sum())
            view = step.view
    assert 0.40 < wins["attack"] / ends["attack"] < 0.62
    assert ends["random"] > 400
    assert wins["random"] == 0


def test_the_dead_may_only_stop(battles: JaxMarlEnv) -> None:
    situation(battles, unit_positions=FACING, unit_health=[45, 0, 45, 45, 45, 45])
    step = play(battles, STOP, STOP, STOP)
    assert step.view.alive.tolist() == [[True, False, True]] * 8
    assert (step.view.action_mask[:, 1] == (np.arange(8) == STOP)).all()
    assert step.view.action_mask[:, [0, 2]].all()  # everyone is in reach
    assert (step.view.obs[:, 1] == 0).all()


@pytest.mark.parametrize("clock", [0, LENGTH - 1])
def test_the_last_kill_wins_even_in_the_last_step(battles: JaxMarlEnv, clock: int) -> None:
    situation(battles, clock, unit_positions=FACING, unit_health=[45, 45, 45, 5, 0, 0])
    step = play(battles, ATTACK, STOP, STOP)
    assert step.terminated.all()
    assert step.success.all()
    assert not step.truncated.any()
    assert step.reward.tolist() == [1.0] * 8
    health = step.final_state.reshape(8, -1)[:, :60].reshape(8, 6, 10)[..., 0]
    assert (health[:, 3:] == 0).all()
    assert step.view.alive.all()
    assert (step.view.state[:, :60].reshape(8, 6, 10)[..., 0] == 1).all()  # the next battle
    assert (battles.get_state()[".clock"] == 0).all()


def test_a_lost_battle_terminates_and_pays_nothing(battles: JaxMarlEnv) -> None:
    situation(battles, unit_positions=FACING, unit_health=[1, 0, 0, 45, 45, 45])
    step = play(battles, STOP, STOP, STOP)
    assert step.terminated.all()
    assert not step.truncated.any()
    assert not step.success.any()
    assert (step.reward == 0).all()


def test_an_open_battle_is_truncated_with_what_it_reached(battles: JaxMarlEnv) -> None:
    apart = np.where(np.arange(6)[:, None] < 3, 2 + FACING / 10, 28 + FACING / 10)
    situation(battles, LENGTH - 1, unit_positions=apart)
    step = play(battles, STOP, STOP, STOP)
    assert step.truncated.all()
    assert not step.terminated.any()
    x = step.final_state[:, :60].reshape(8, 6, 10)[..., 1]
    assert (x[:, :3] < 5).all()
    starts = step.view.state[:, :60].reshape(8, 6, 10)[..., 1]
    assert (np.abs(starts[:, :3] - 8) < 3).all()


def test_smax_own_reward_is_the_health_taken_and_1_for_a_win() -> None:
    env = make_smax(2, LENGTH, "3m", reward="shaped")
    situation(env, unit_positions=FACING, unit_health=[45, 45, 45, 45, 0, 0])
    step = play(env, ATTACK, STOP, STOP)
    assert step.reward == pytest.approx(9 / 45 / 3)
    situation(env, unit_positions=FACING, unit_health=[45, 45, 45, 9, 0, 0])
    step = play(env, ATTACK, STOP, STOP)
    assert step.reward == pytest.approx(1 + 9 / 45 / 3)
    assert step.success.all()


def test_an_env_depends_on_seed_and_its_number_alone(battles: JaxMarlEnv) -> None:
    few = make_smax(3, LENGTH, "3m")
    np.testing.assert_array_equal(few.reset(4).state, battles.reset(4).state[:3])
    rng, view = np.random.default_rng(0), battles.reset(4)
    for _ in range(60):
        action = random_action(battles, view, rng)
        small, step = few.step(action[:3]), battles.step(action)
        np.testing.assert_array_equal(small.view.state, step.view.state[:3])
        np.testing.assert_array_equal(small.final_obs, step.final_obs[:3])
        view = step.view
    assert len(np.unique(battles.reset(4).state, axis=0)) == 8
    assert not np.array_equal(battles.reset(5).state, battles.reset(4).state)


def test_goes_on_exactly_in_another_object(battles: JaxMarlEnv) -> None:
    other, rng = make_smax(8, LENGTH, "3m"), np.random.default_rng(1)
    view = battles.reset(2**63)
    for _ in range(25):
        view = battles.step(random_action(battles, view, rng)).view
    other.set_state(battles.get_state())
    for _ in range(40):
        action = random_action(battles, view, rng)
        left, right = battles.step(action), other.step(action)
        for a, b in zip([*left[1:], *left.view], [*right[1:], *right.view], strict=True):
            np.testing.assert_array_equal(a, b)
        view = left.view


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({".clock": np.full(8, LENGTH, dtype=np.int32)}, r"clock has a value outside 0\.\.29"),
        ({".clock": np.zeros(7, dtype=np.int32)}, "clock is int32 of shape"),
        ({"extra": np.zeros(8)}, "extra"),
    ],
)
def test_refuses_a_state_that_does_not_fit(
    battles: JaxMarlEnv, change: dict[str, np.ndarray], words: str
) -> None:
    battles.reset(0)
    with pytest.raises(ValueError, match=words):
        battles.set_state({**battles.get_state(), **change})


def test_names_what_it_cannot_play_or_make(battles: JaxMarlEnv) -> None:
    battles.reset(0)
    action = np.full((8, 3), STOP)
    action[5, 2] = 8
    with pytest.raises(ValueError, match=r"env 5, agent 2: action 8 .* 0\.\.7"):
        battles.step(action)
    with pytest.raises(RuntimeError, match="reset"):
        make_smax(1, 5, "3m").step(np.full((1, 3), STOP))
    with pytest.raises(ValueError, match="no scenario '3n'"):
        make_smax(1, 5, "3n")
    with pytest.raises(ValueError, match="reward is 'dense'"):
        make_smax(1, 5, "3m", reward="dense")
    with pytest.raises(ValueError, match=r"no game 'overcocked'; it has .*overcooked"):
        make_jaxmarl(1, 5, "overcocked")
    with pytest.raises(ValueError, match=r"cannot make 'hanabi' with settings .*max_steps"):
        make_jaxmarl(1, 5, "hanabi")
    with pytest.raises(ValueError, match="team_reward is 'max'"):
        make_jaxmarl(1, 5, "overcooked", team_reward="max")
    with pytest.raises(ValueError, match=r"no layout 'ring'; JaxMARL has .*coord_ring"):
        make_jaxmarl(1, 5, "overcooked", layout="ring")
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_smax(0, 5, "3m")
    with pytest.raises(RuntimeError, match=r"render\(\) before reset"):
        make_smax(1, 5, "3m").render()
    with pytest.raises(ValueError, match="no env 8 to draw"):
        battles.render(8)
    with pytest.raises(NotImplementedError, match="no picture"):
        make_jaxmarl(1, 5, "overcooked").render()


def test_a_picture_shows_the_end_of_a_battle_until_the_next_step(battles: JaxMarlEnv) -> None:
    """The last enemy falls where allies are; the next battle's enemies are far to the east."""

    def red() -> tuple[int, int]:
        """Red points in the west and in the east; a disc has some 150, a shot's line fewer."""
        found = (battles.render(3) == ENEMY).all(axis=-1)
        return int(found[:, :240].sum()), int(found[:, 240:].sum())

    situation(battles, LENGTH - 2, unit_positions=FACING, unit_health=[45, 45, 45, 5, 0, 0])
    west, east = red()
    assert west > 120 and east == 0
    assert play(battles, ATTACK, STOP, STOP).terminated.all()
    west, east = red()
    assert west < 80 and east == 0
    assert not play(battles, STOP, STOP, STOP).terminated.any()
    west, east = red()
    assert west == 0 and east > 300
    battles.reset(0)
    assert red()[1] > 300


def test_a_picture_changes_nothing_that_is_played(battles: JaxMarlEnv) -> None:
    played = []
    for drawn in (False, True):
        view, steps = battles.reset(5), []
        for _ in range(12):
            steps.append(battles.step(attack(view)))
            view = steps[-1].view
            if drawn:
                battles.render(1)
        played.append(np.stack([step.final_state for step in steps]))
    np.testing.assert_array_equal(*played)


def test_rewards_of_agents_become_the_teams() -> None:
    name, action = "jaxmarl:MPE_simple_spread_v3", np.zeros((2, 3), dtype=np.int64)
    rewards = []
    for team_reward in ("sum", "mean"):
        env = make_env(name, 2, 10, EnvOptions("", team_reward))
        env.reset(3)
        rewards.append(env.step(action).reward)
    assert (rewards[0] < 0).all()
    np.testing.assert_allclose(rewards[0], 3 * rewards[1], rtol=1e-6)


def test_agents_that_differ_are_filled_up() -> None:
    env = make_jaxmarl(2, 10, "MPE_simple_speaker_listener_v4")
    view = env.reset(0)
    assert (view.obs[:, 0, 3:] == 0).all()  # the speaker sees 3 numbers, the listener 11
    assert view.action_mask.tolist() == [[[True] * 3 + [False] * 2, [True] * 5]] * 2
