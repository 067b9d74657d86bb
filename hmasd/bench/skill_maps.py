"""A picture of where the skills of a run lead, from what `look_at_skills` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hmasd.viz.curves import STYLE

MAPS_PER_ROW = 12  # with more they are too small to read


def draw_skills(looks: Mapping[str, Any]) -> Figure:
    """One map per (Z, z): darker where it stays longer; how often q_d recognises it.

    Args:
        looks: Moment -> what `look_at_skills` found then in an env with cells, or None.
    """
    rows = [
        (f"{_heading(moment, found)}, Z = {team_skill}", pairs[start : start + MAPS_PER_ROW])
        for moment, found in looks.items()
        if found is not None
        for team_skill, pairs in _by_team_skill(found["pairs"]).items()
        for start in range(0, len(pairs), MAPS_PER_ROW)
    ]
    widest = max(len(pairs) for _, pairs in rows)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(max(1.3 * widest, 4.5), 2.0 * len(rows)), layout="constrained")
        for part, (heading, pairs) in zip(
            figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
        ):
            part.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
            axes = part.subplots(1, widest, squeeze=False)[0]
            for axis in axes[len(pairs) :]:
                axis.remove()
            for axis, pair in zip(axes[: len(pairs)], pairs, strict=True):
                cells = np.sqrt(np.array(pair["visited"])[1:-1, 1:-1])
                axis.imshow(cells, cmap="magma_r", vmin=0, vmax=0.9)
                axis.set_title(f"z {pair['skill']}: {pair['accuracy']:.0%}", fontsize=9)
                axis.set_xticks([])
                axis.set_yticks([])
    return figure


def _heading(moment: str, found: Mapping[str, Any]) -> str:
    steps = f", {found['env_steps']:,} env steps" if "env_steps" in found else ""
    return moment.replace("_", " ") + steps


def _by_team_skill(pairs: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        found.setdefault(pair["team_skill"], []).append(pair)
    return found
