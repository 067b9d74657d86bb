"""`hmasd check-env`: fifteen faults and more, each planted in a small env, are all found and named.

Here are games whose faults come through an adapter or the batch of single games, run by the command
as a user would; tests/envs/test_contract.py has those of batched envs.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmasd import check_env
from hmasd.envs import check_process
from hmasd.envs.check_request import Request
from hmasd.envs.single import SingleStep, SingleView
from hmasd.types import EnvStep
from tests.helpers.envs import Counter
from tests.helpers.foreign_envs import Relay
from tests.helpers.single_envs import Walk


class RaisesInStep(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        if self.time == 3:
            raise ZeroDivisionError("no wind")
        return super().step(action)


class RaisesInReset(Walk):
    resets = 0

    def reset(self, seed: int) -> SingleView:
        self.resets += 1
        if self.resets > 3:
            raise OSError("no more boards")
        return super().reset(seed)


class RaisesInSecondReset(RaisesInReset):
    resets = 2


class ABatchThatLeaves(Counter):
    def reset(self, seed: int) -> Any:
        sys.exit(0)


class ReturnsNaN(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        step.view.obs[1, 2] = np.nan if self.time == 2 else self.time
        return step


class WrongShape(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        return step._replace(view=step.view._replace(state=np.zeros(3, np.float32)))


class WrongType(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        return super().step(action)._replace(reward="much")


class ForbidsAll(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        mask = np.ones((2, 3), bool) if self.time < 4 else np.zeros((2, 3), bool)
        return step._replace(view=step.view._replace(action_mask=mask))


class GrowingTeam(Relay):
    def step(self, actions: dict[str, Any]) -> Any:
        result = super().step(actions)
        if self.time == 2:
            self.agents.append("stranger")
        return result


class NoFinalObservation(Relay):
    def step(self, actions: dict[str, Any]) -> Any:
        observations, *rest = super().step(actions)
        return observations if self.agents else {}, *rest


class IgnoresSeeds(Walk):
    def reset(self, seed: int) -> SingleView:
        return super().reset(time.perf_counter_ns())


class LeavesNobodyAlive(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        return step._replace(view=step.view._replace(alive=np.array([self.time < 3] * 2)))


class FloodsStdout(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        print("stepping")
        os.write(1, b"stepping deeper\n")
        return super().step(action)


class LosesItsMask(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        return step._replace(view=step.view._replace(action_mask=None))


class PassesATuple(Walk):
    def step(self, action: np.ndarray) -> Any:
        return tuple(super().step(action))


class OldApi(Relay):
    def step(self, actions: dict[str, Any]) -> Any:
        return super().step(actions)[:4]


class Batched(Counter):
    """A batched env of the factory's own; subclasses plant a fault."""

    def __init__(self, num_envs: int, episode_length: int) -> None:
        super().__init__(num_envs, 2, episode_length)


class NeverEnds(Batched):
    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        return step._replace(
            truncated=np.zeros_like(step.truncated),
            terminated=np.zeros_like(step.terminated),
            success=np.zeros_like(step.success),
            final_obs=step.view.obs,
            final_state=step.view.state,
        )


class EndsTwice(Batched):
    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        return step._replace(truncated=step.truncated | step.terminated)


class SucceedsEarly(Batched):
    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        return step._replace(success=np.ones_like(step.success))


class ForgetsItsState(Batched):
    def set_state(self, state: dict[str, np.ndarray]) -> None:
        super().set_state({**state, "rng": state["rng"] + np.uint64(1)})


class WritesIntoActions(Batched):
    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        action[:] = 0
        return step


class ShowsTheNextEpisode(Batched):
    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        return step._replace(final_obs=step.view.obs)


class NotAStep(Batched):
    def step(self, action: np.ndarray) -> Any:
        return tuple(super().step(action))


FAULTS: dict[Callable[..., Any], str] = {
    RaisesInStep: "step 4 of episode 0 .*step raised ZeroDivisionError: no wind",
    RaisesInReset: "reset raised OSError: no more boards",
    RaisesInSecondReset: "reset raised OSError: no more boards",
    ABatchThatLeaves: r"step 0: reset raised SystemExit: 0 \(test_check_env.py, line",
    ReturnsNaN: r"env \d, step \d+: obs\[\d, 1, 2\] is nan",
    WrongShape: r"state is float32 of shape \(3,\), but must be float32 of \(2,\)",
    WrongType: "reward is <U4",
    ForbidsAll: "action_mask forbids agent 0 every action",
    GrowingTeam: "agent 'stranger' is not one of possible_agents",
    NoFinalObservation: "the episode ended without observations of",
    IgnoresSeeds: "differs after a second reset",
    LeavesNobodyAlive: "no agent is alive although the episode goes on",
    FloodsStdout: "the env printed .* lines, such as 'stepping",
    LosesItsMask: "action_mask is missing, but was given",
    PassesATuple: "step returned a tuple, not a SingleStep",
    OldApi: "step returned 4 values, but must return 5 dicts",
    NeverEnds: "the episode goes on after 9 steps, but episode_length is 9",
    EndsTwice: "terminated and truncated are both set",
    SucceedsEarly: "success is set although the episode goes on",
    ForgetsItsState: r"differs after set_state\(get_state\(\)\) of step 20",
    WritesIntoActions: r"step\(\) wrote into its actions",
    ShowsTheNextEpisode: "final_obs is the next episode's first obs in all",
    NotAStep: "step returned a tuple, not an EnvStep",
}


class HangsInStep(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        if self.time == 3:
            time.sleep(1e6)
        return super().step(action)


class ABatchThatSpins(Batched):
    def set_state(self, state: dict[str, np.ndarray]) -> None:
        while True:
            pass


class DiesInStep(Walk):
    def step(self, action: np.ndarray) -> SingleStep:
        if self.time == 3:
            os.write(2, b"out of coal")
            os._exit(5)
        return super().step(action)


def cannot_be_made_in_time() -> None:
    time.sleep(1e6)


def run(name: str, **request: Any) -> int:
    """Check in this process, which is quicker, and show what the command shows."""
    asked = Request(name, **{"steps": 40, "episode_length": 9, **request})
    return check_env.show(name, check_process.check(asked, lambda now, told: None))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_finds_the_planted_fault(fault: Callable[..., Any], capsys) -> None:
    assert run(f"{__name__}:{fault.__name__}") == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert told
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        raise AssertionError("\n".join(told))


def command(name: str, *words: str) -> int:
    """The command itself, whose env plays in another process."""
    return check_env.main([name, "--steps", "40", "--episode-length", "9", *words])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            HangsInStep,
            r"env 0, step 4: step\(\[\d, \d\]\) gave no answer .*\n[\s\S]*, line \d+ in",
        ),
        (ABatchThatSpins, r"all envs, step 20: set_state\(.* gave no answer [\s\S]* in set_state"),
        (DiesInStep, r"env 0, step 4: step\(\[\d, \d\]\) exited with code 5\n[\s\S]*out of coal"),
        (cannot_be_made_in_time, r"making it gave no answer [\s\S]* in cannot_be_made_in_time"),
    ],
)
def test_an_env_that_hangs_or_dies_is_found_in_time(
    fault, words: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Noted(check_env._CheckProcess):
        def __init__(self) -> None:
            super().__init__()
            started.append(self.pid)

    monkeypatch.setattr(check_env, "_CheckProcess", Noted)
    assert command(f"{__name__}:{fault.__name__}", "--timeout", "15") == 1
    told = capsys.readouterr().out
    assert re.search(f"^fault: {words}", told, re.MULTILINE)
    assert "--timeout" in told or "exited" in told
    assert len(started) == 1 and not Path(f"/proc/{started[0]}").exists()


def test_a_sound_env_passes_the_command_within_its_deadline(capsys) -> None:
    assert command("tests.helpers.single_envs:Walk") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ok: no fault in 360 env steps"


def test_there_are_fifteen_planted_faults() -> None:
    assert len(FAULTS) >= 15


@pytest.mark.parametrize(
    "name",
    [
        "tests.helpers.single_envs:Walk",
        "tests.helpers.foreign_envs:Relay",
        f"{__name__}:Batched",
        "alice_and_bob",
    ],
)
def test_control_an_env_without_a_fault_passes(name: str, capsys) -> None:
    assert run(name) == 0
    told = capsys.readouterr().out
    assert "fault" not in told.replace("no fault", "")
    assert told.splitlines()[-1] == "ok: no fault in 360 env steps"
    assert "random play: 120 env steps" in told


def test_describes_the_env(capsys) -> None:
    assert run("tests.helpers.foreign_envs:Relay", num_envs=2, team_reward="mean") == 0
    told = capsys.readouterr().out
    assert "2 envs, 2 agents, observation 4, state 6, actions Discrete(3)" in told
    assert "note: agents have [3, 2] actions" in told


def test_says_what_was_not_checked(capsys) -> None:
    assert run("alice_and_bob", steps=5) == 0
    told = capsys.readouterr().out
    assert "note: no episode ended" in told and "note: random play never had a reward" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["alice_and_bop"], "did you mean 'alice_and_bob'"),
        (["no_such_module:make"], "there is no module 'no_such_module'"),
        (["alice_and_bob", "--env-args", "[1]"], "must be a mapping"),
        (["alice_and_bob", "--steps", "1"], "steps = 1 must be at least 2"),
        (["alice_and_bob", "--num-envs", "0"], "num_envs = 0 must be at least 1"),
        (["alice_and_bob", "--timeout", "0"], "timeout = 0 must be more than 0"),
        (["alice_and_bob", "--team-reward", "max"], "invalid choice"),
        ([], "required: env"),
    ],
)
def test_bad_input_is_told(words: list[str], told: str, capsys) -> None:
    assert check_env.main(words) == 2
    assert told in capsys.readouterr().err


def test_a_factory_that_fails_is_a_fault(capsys) -> None:
    name = "tests.helpers.foreign_envs:Relay"
    assert run(name, env_args="{colour: red}") == 1
    assert "raised TypeError" in capsys.readouterr().out


def test_help_names_the_envs(capsys) -> None:
    assert check_env.main(["--help"]) == 0
    assert "alice_and_bob" in capsys.readouterr().out


def test_output_is_held_back_and_given_back(capfd) -> None:
    with check_process.captured_output() as lines:
        print("by python")
        os.write(1, b"by the system\n")
    print("after")
    assert sorted(lines) == ["by python", "by the system"]
    assert capfd.readouterr().out == "after\n"
