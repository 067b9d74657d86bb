"""The check of every step of training: no NaN and no infinity may come out of an environment."""

from __future__ import annotations

import math

import numpy as np

from hmasd.types import EnvStep, EnvView


def check_view(view: EnvView, step_number: int) -> None:
    """Refuse a view with a number that is not finite (a reset's view: step 0).

    Raises:
        ValueError: names env, step, field, agent and place of the first bad number.
    """
    _check_array(view.obs, "obs", step_number)
    _check_array(view.state, "state", step_number)


def check_step(step: EnvStep, step_number: int) -> None:
    """Refuse a step with a number that is not finite.

    The final observations are looked at where an episode ended; elsewhere they equal the view.

    Raises:
        ValueError: names env, step, field, agent and place of the first bad number.
    """
    _check_array(step.reward, "reward", step_number)
    check_view(step.view, step_number)
    ended = step.terminated | step.truncated
    if ended.any():
        envs = np.flatnonzero(ended)
        _check_array(step.final_obs[ended], "final_obs", step_number, envs)
        _check_array(step.final_state[ended], "final_state", step_number, envs)


def _check_array(
    array: np.ndarray, field: str, step_number: int, envs: np.ndarray | None = None
) -> None:
    """Check one array [E, ...]; `envs` are the numbers of its rows where they are not 0, 1, 2..."""
    if math.isfinite(np.vdot(array, array)):  # one cheap pass; squares may overflow: look closer
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    index = tuple(int(i) for i in np.argwhere(~finite)[0])
    env = index[0] if envs is None else int(envs[index[0]])
    agent = f" of agent {index[1]}" if field.endswith("obs") else ""
    place = f" at place {index[-1]}" if len(index) > 1 else ""
    raise ValueError(
        f"env {env}, step {step_number}: {field}{agent} is {array[index]}{place}; training on it "
        f"would spoil all weights, so mend the environment's step() or reset()"
    )
