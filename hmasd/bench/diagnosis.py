"""Why a run learned or not, from what training logged: pure functions of metrics over env steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from hmasd.rollout.episodes import WINDOW
from hmasd.training.evaluation import MODES
from hmasd.viz.curves import Curve, Run

SOLVED = 0.95
LOST = 0.85
"""Below it after `SOLVED` is a drop; chance takes 32 episodes at 0.95 there 1 time in 50."""


class Drop(NamedTuple):
    """A time during which a policy that could do the task could not."""

    start: int  # env steps of the first evaluation below `LOST`
    end: int | None  # of the first one back at `SOLVED`; None: never
    lowest: float


def diagnose(run: Run, num_skills: tuple[int, int]) -> dict[str, Any]:
    """All that the log tells.

    Args:
        run: What training logged.
        num_skills: n_Z and n_z.

    Returns:
        Plain numbers, for JSON: `first` (env steps of the first reward, of the first training
        success of 0.5 and 0.95 and of the first evaluations with 0.5 and 0.95; None: never),
        `before_first_reward` (`coordinator_entropy`, `discriminators`), `drops` and `off_policy`.
    """
    reward = first_at_least(run.curves.get("rollout/return"), 0.0, strictly=True)
    return {
        "first": {"reward": reward} | _first_successes(run),
        "before_first_reward": {
            "coordinator_entropy": {
                level: _entropy(run.curves.get(f"high/entropy_{level}"), reward, number)
                for level, number in zip(("team", "agent"), num_skills, strict=True)
            },
            "discriminators": {
                level: _accuracy(run, level, reward) for level in ("team", "individual")
            },
        },
        "drops": {
            mode: [drop._asdict() for drop in drops(run.curves.get(f"eval/{mode}_success"))]
            for mode in MODES
        },
        "off_policy": _off_policy(run),
    }


def first_at_least(curve: Curve | None, level: float, strictly: bool = False) -> int | None:
    """Env steps of the first value of at least (strictly: above) `level`; None: never."""
    if curve is None:
        return None
    index = np.flatnonzero(curve.values > level if strictly else curve.values >= level)
    return int(curve.steps[index[0]]) if len(index) else None


def drops(curve: Curve | None) -> list[Drop]:
    """The times after the first `SOLVED` from a value below `LOST` to the next at `SOLVED`."""
    found: list[Drop] = []
    solved = is_down = False
    for step, value in zip(*curve, strict=True) if curve is not None else ():
        if value >= SOLVED:
            if is_down:
                found[-1] = found[-1]._replace(end=int(step))
            solved, is_down = True, False
        elif is_down:
            found[-1] = found[-1]._replace(lowest=min(found[-1].lowest, float(value)))
        elif solved and value < LOST:
            found.append(Drop(int(step), None, float(value)))
            is_down = True
    return found


def _first_successes(run: Run) -> dict[str, int | None]:
    curves = {mode: run.curves.get(f"eval/{mode}_success") for mode in MODES}
    return {
        f"{name}_{level}": first_at_least(curve, level)
        for name, curve in ({"training": _training_success(run)} | curves).items()
        for level in (0.5, SOLVED)
    }


def _training_success(run: Run) -> Curve | None:
    """From where it is a share of `WINDOW` episodes: the first to end may have been luck."""
    share, ended = (run.curves.get(f"rollout/{name}") for name in ("success", "episodes"))
    if share is None or ended is None:
        return None
    counted = np.isin(share.steps, ended.steps[ended.values >= WINDOW])
    return Curve(share.steps[counted], share.values[counted])


def _until(curve: Curve, end: int | None) -> np.ndarray:
    """The values before `end` (None: all)."""
    return curve.values if end is None else curve.values[curve.steps < end]


def _entropy(curve: Curve | None, end: int | None, choices: int) -> dict[str, float] | None:
    """Lowest and last entropy before `end` as a share of log n; None: no update before it."""
    if curve is None or choices < 2 or len(_until(curve, end)) == 0:
        return None
    shares = _until(curve, end) / math.log(choices)
    return {"lowest": float(shares.min()), "last": float(shares[-1])}


def _accuracy(run: Run, level: str, end: int | None) -> dict[str, float] | None:
    """Accuracy at the last round before `end`, beside chance; None: no round before it."""
    curve, chance = (run.curves.get(f"disc/{level}_{name}") for name in ("accuracy", "chance"))
    if curve is None or chance is None or len(_until(curve, end)) == 0:
        return None
    return {"accuracy": float(_until(curve, end)[-1]), "chance": float(chance.values[-1])}


def _off_policy(run: Run) -> dict[str, dict[str, float] | None] | None:
    """What older versions made of the discoverer's and the coordinator's batches, over all updates.

    None: training was synchronous, which refuses such samples.
    """
    if "async/off_policy_share" not in run.curves:
        return None
    found: dict[str, dict[str, float] | None] = {}
    for batches, of in (("samples", ""), ("segments", "coordinator_")):
        curves = [run.curves.get(f"async/{of}{name}") for name in ("off_policy_share", "lag_mean")]
        share, lag = (None if curve is None else float(curve.values.mean()) for curve in curves)
        found[batches] = None if share is None or lag is None else {"share": share, "lag": lag}
    return found
