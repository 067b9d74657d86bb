"""What the JSON files of a run must hold for a report, and whether they do.

A shape is a type (`float`: any finite number), a tuple of alternatives, a list of one shape (of all
its items), a mapping of the names that must be there (those that end in ``?`` may be missing), or a
function that says whether a value has it.
"""

from __future__ import annotations

import math
from typing import Any

from hmasd.training.evaluation import MODES

NOTHING = type(None)

EPISODE = {"mode": MODES.__contains__, "success": bool, "return": float}
EVALUATED = {"env_steps": int} | EPISODE
FAILURE = {"exit_code": int, "last_words": str}
VERSIONS = {"git_commit?": (str, NOTHING), "git_has_changes?": (bool, NOTHING)}
METRICS = {"env_steps": int}

_STEPS = (int, NOTHING)
_LAST = ({"last": float}, NOTHING)
_LOOK = {
    "separation": (float, NOTHING),
    "items": ({"reached": int, "of": int}, NOTHING),
    "pairs": [{"nearest": (float, NOTHING), "accuracy": float}],
}
_OFF_POLICY = ({"share": float, "lag": float}, NOTHING)
DIAGNOSIS = {
    "first": {"reward": _STEPS, "training_0.5": _STEPS, "training_0.95": _STEPS},
    "before_first_reward": {
        "coordinator_entropy": {"team": _LAST, "agent": _LAST},
        "discriminators": {"individual": ({"accuracy": float, "chance": float}, NOTHING)},
    },
    "drops": {"greedy": [{"lowest": float}], "stochastic": [{"lowest": float}]},
    "skills": {"before_success": (_LOOK, NOTHING), "last": (_LOOK, NOTHING)},
    "off_policy?": ({"samples": _OFF_POLICY, "segments": _OFF_POLICY}, NOTHING),
}


def both_ways(episodes: Any) -> bool:
    """Whether these are episodes of both ways of playing, as many of each, and not none."""
    if not fits(episodes, [EPISODE]):
        return False
    counts = {mode: sum(episode["mode"] == mode for episode in episodes) for mode in MODES}
    return len(set(counts.values())) == 1 and len(episodes) > 0


ABSOLUTE = {"env_steps": int, "episodes": both_ways}


def fits(value: Any, shape: Any) -> bool:
    """Whether what JSON gave has the shape."""
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_has(value, *entry) for entry in shape.items())
    if shape is float:
        return type(value) in (int, float) and math.isfinite(value)
    if not isinstance(shape, type):
        return bool(shape(value))
    return type(value) is shape  # True is no whole number


def _has(value: dict[str, Any], name: str, shape: Any) -> bool:
    """Whether an entry is there with its shape, or may be missing and is."""
    key = name.removesuffix("?")
    return fits(value[key], shape) if key in value else name != key
