"""Tables as rows of text, and rows of text as Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmasd.bench.diagnosis import LOST, SOLVED, drops, first_at_least
from hmasd.bench.results import (
    MODES,
    Record,
    Scores,
    absolute_mean,
    last_mean,
    points,
    tells_success,
)
from hmasd.bench.spec import Spec
from hmasd.bench.statistics import (
    CONFIDENCE,
    Interval,
    improvement_p_value,
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement_interval,
    wilson_interval,
)
from hmasd.viz.curves import Curve

SIGNIFICANT = 1 - CONFIDENCE  # p value below which the better one is named

Row = Sequence[str]
_LATEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "≥": r"$\geq$", "–": "--"}
_LATEX |= {"<": "$<$", ">": "$>$"}  # the default font has other signs there


def markdown(table: Sequence[Row]) -> str:
    """A Markdown table; the first row is its head."""
    head, *rows = (("| " + " | ".join(row) + " |") for row in table)
    return "\n".join([head, "|" + "---|" * len(table[0]), *rows]) + "\n"


def latex(table: Sequence[Row]) -> str:
    """A LaTeX tabular with the booktabs package's rules; the first row is its head."""
    head, *rows = (
        " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in row) + r" \\"
        for row in table
    )
    columns = "l" * len(table[0])
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def score_table(
    spec: Spec, task: str, scores: Mapping[str, Scores], records: Sequence[Record]
) -> list[Row]:
    """What each algorithm reached on a task: interquartile means of its best policies.

    Returns are as the env gives them, not scaled.
    """
    is_shown = tells_success(spec, task, records)
    reached = MODES if spec.metric == "success" else [f"return, {mode}" for mode in MODES]
    solved = [f"solved (≥ {spec.solved:g})", "solved at the end"] if is_shown else []
    table: list[Row] = [["algorithm", "runs", *reached, *solved]]
    for name in spec.algorithms:
        runs = [x for x in records if (x.key.task, x.key.algorithm) == (task, name)]
        counts = count_states(runs)
        if name not in scores:
            table.append([name, counts, *["-"] * len(table[0][2:])])
            continue
        found = scores[name]
        means = [interval_text(_unscaled_interval(found, mode)) for mode in MODES]
        shares = [share_text(int(x.sum()), len(x)) for x in (found.solved, found.solved_at_end)]
        table.append([name, counts, *means, *(shares if is_shown else [])])
    return table


def steadiness_table(spec: Spec, task: str, records: Sequence[Record]) -> list[Row]:
    """When each algorithm's evaluations were first good, which fell again, what was off-policy."""
    is_shown = tells_success(spec, task, records)
    when = [f"first ≥ {SOLVED:g}, {mode} (median)" for mode in MODES]
    fell = [f"below {LOST:g} after that, {mode}" for mode in MODES]
    off_policy = ["off-policy samples", "off-policy segments of the coordinator"]
    table: list[Row] = [["algorithm", *([*when, *fell] if is_shown else []), *off_policy]]
    for name in spec.algorithms:
        ended = [
            record
            for record in records
            if (record.key.task, record.key.algorithm) == (task, name)
            and record.state != "unfinished"
        ]
        if ended:
            steadiness = _steadiness_cells(ended) if is_shown else []
            table.append([name, *steadiness, *_off_policy_cells(ended)])
    return table


def runs_table(spec: Spec, task: str, records: Sequence[Record]) -> list[Row]:
    """One row per run that was measured: its evaluations, and its best policy on new episodes.

    The last two columns are of the metric, returns as the env gives them.
    """
    is_shown = tells_success(spec, task, records)
    both = " / ".join(MODES)
    of = "" if spec.metric == "success" else "return of the "
    first = f"first ≥ {spec.solved:g} in both"
    success = [first, f"lowest evaluation after that, {both}"] if is_shown else []
    metric = [f"{of}last evaluation, {both}", f"{of}best policy, {both}"]
    table: list[Row] = [["run", *success, *metric]]
    for name in spec.algorithms:
        table += [
            [
                f"{name}/{record.key.seed}",
                *(_success_cells(record, spec.solved) if is_shown else []),
                *_metric_cells(spec, record),
            ]
            for record in records
            if (record.key.task, record.key.algorithm, record.state) == (task, name, "finished")
            and len(points(record, MODES[0], "success")[0])
        ]
    return table


def improvement_table(
    scores: Mapping[str, Sequence[np.ndarray]],
) -> tuple[dict[str, Interval], list[Row]]:
    """How probably a run of the first algorithm beats one of each other.

    A difference that is known may be too small to matter, or the one that wins more often may win
    little and lose much: so it is told by how much the interquartile means differ.

    Args:
        scores: Algorithm -> per task [R].

    Returns:
        The intervals by the other's name, and the table.
    """
    reference, *others = scores
    counts = {name: ", ".join(str(len(task)) for task in tasks) for name, tasks in scores.items()}
    found = {
        other: probability_of_improvement_interval(scores[reference], scores[other])
        for other in others
    }
    table: list[Row] = [
        [
            "algorithm",
            f"runs of {reference} / of it",
            f"P({reference} > it)",
            "p value",
            "who is better",
        ]
    ]
    for other, interval in found.items():
        p_value = improvement_p_value(scores[reference], scores[other])
        ranked = (reference, other) if interval.value > 0.5 else (other, reference)
        verdict = _winner(scores, *ranked) if p_value < SIGNIFICANT else "not known"
        runs = f"{counts[reference]} / {counts[other]}"
        table.append([other, runs, interval_text(interval), p_text(p_value), verdict])
    return found, table


def diagnosis_table(records: Sequence[Record]) -> list[Row]:
    """One row per run: when it learned, and what its skills were like before."""
    table: list[Row] = [
        [
            "run",
            "first reward (mean return above 0)",
            "training 0.5 / 0.95",
            "coordinator's entropy before reward, Z / z",
            "accuracy of q_d before reward (chance)",
            "skills' separation, before success / last",
            "keys and diamonds reached, before success / last",
            "drops greedy",
            "drops stochastic",
        ]
    ]
    for record in records:
        name = f"{record.key.task}/{record.key.algorithm}/{record.key.seed}"
        if record.failure is not None:
            words = f" failed ({record.failure['exit_code']}): {record.failure['last_words']}"
            name += words.replace("|", "/")
        if record.diagnosis is not None:
            table.append([name, *_diagnosis_cells(record.diagnosis)])
        elif record.failure is not None:
            table.append([name, *["-"] * 8])
    return table


def count_states(records: Sequence[Record]) -> str:
    """E.g. ``10`` or ``8 of 10 (1 failed, 1 not finished, 1 after a failure)``."""
    states = [record.state for record in records]
    words = {"failed": "failed", "unfinished": "not finished"}
    parts = [f"{states.count(s)} {word}" for s, word in words.items() if s in states]
    again = sum(record.state == "finished" and record.earlier_failures > 0 for record in records)
    parts += [f"{again} after a failure"] if again else []
    finished = states.count("finished")
    return f"{finished} of {len(states)} ({', '.join(parts)})" if parts else str(finished)


def interval_text(interval: Interval) -> str:
    """E.g. ``0.93 [0.81, 0.99]``."""
    if math.isinf(interval.low):
        return f"{interval.value:.2f} [one run]"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def p_text(p_value: float) -> str:
    """E.g. ``0.031``; never 0."""
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def share_text(successes: int, runs: int) -> str:
    """E.g. ``9 of 10 [60%, 98%]`` with the Wilson interval; none where there are no runs."""
    if runs == 0:
        return "0 of 0"
    share = wilson_interval(successes, runs)
    return f"{successes} of {runs} [{share.low:.0%}, {share.high:.0%}]"


def _winner(scores: Mapping[str, Sequence[np.ndarray]], better: str, worse: str) -> str:
    """Who wins more often, and by how much; the interquartile means may tell the opposite."""
    ahead = round(interquartile_mean(scores[better]) - interquartile_mean(scores[worse]), 3)
    if ahead < 0:
        return f"{better} more often, but its interquartile mean is {-ahead:.3f} lower"
    return f"{better}, by {abs(ahead):.3f}"  # no -0.000


def _unscaled_interval(found: Scores, mode: str) -> Interval:
    """The interquartile mean of the best policies as values of the metric."""
    low, high = found.limits
    scaled = interquartile_mean_interval([found.absolute[mode]])
    return Interval(*(low + (high - low) * x for x in scaled))


def _success_cells(record: Record, solved: float) -> list[str]:
    """When a run's evaluations were first good in both ways of playing, and how low they fell."""
    steps = points(record, MODES[0], "success")[0]
    success = np.array([points(record, mode, "success")[1] for mode in MODES])  # [2, K]
    good = np.flatnonzero((success >= solved).all(axis=0))
    after = success[:, good[0] + 1 :] if len(good) else success[:, :0]
    return [
        _steps(int(steps[good[0]]) if len(good) else None),
        _pair(after.min(axis=1), 2) if after.size else "-",
    ]


def _metric_cells(spec: Spec, record: Record) -> list[str]:
    """What a run's last evaluation, if it is there, and its best policy reached."""
    last = [last_mean(spec, record, mode, spec.metric) for mode in MODES]
    best = [absolute_mean(record, mode, spec.metric) for mode in MODES]
    return ["-" if np.isnan(last).any() else _pair(last, 2), _pair(best, 3)]


def _pair(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """E.g. ``0.97 / 1.00``."""
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _diagnosis_cells(found: dict[str, Any]) -> list[str]:
    first, before = found["first"], found["before_first_reward"]
    entropy = before["coordinator_entropy"]
    recognised = before["discriminators"]["individual"]
    looks = [found["skills"][moment] for moment in ("before_success", "last")]
    return [
        _steps(first["reward"]),
        f"{_steps(first['training_0.5'])} / {_steps(first['training_0.95'])}",
        " / ".join(_number(entropy[x] and entropy[x]["last"]) for x in ("team", "agent")),
        "-" if recognised is None else f"{recognised['accuracy']:.2f} ({recognised['chance']:.2f})",
        " / ".join(_number(x and x["separation"]) for x in looks),
        " / ".join(
            f"{x['items']['reached']} of {x['items']['of']}" if x and x["items"] else "-"
            for x in looks
        ),
        *(_drops(found["drops"][mode]) for mode in MODES),
    ]


def _steadiness_cells(ended: Sequence[Record]) -> list[str]:
    """Of runs that ended; one that failed counts as never good."""
    runs = [record for record in ended if record.state == "finished"]
    firsts, falls = [], []
    for mode in MODES:
        curves = [Curve(*points(run, mode, "success")) for run in runs]
        reached = [x for curve in curves if (x := first_at_least(curve, SOLVED)) is not None]
        lowest = [min(x.lowest for x in found) for curve in curves if (found := drops(curve))]
        median = f" ({np.median(reached):,.0f})" if reached else ""
        firsts.append(share_text(len(reached), len(ended)) + median)
        falls.append(share_text(len(lowest), len(reached)) + _to(lowest))
    return [*firsts, *falls]


def _off_policy_cells(ended: Sequence[Record]) -> list[str]:
    runs = [x.diagnosis for x in ended if x.state == "finished" and x.diagnosis is not None]
    return [_off_policy(runs, batches) for batches in ("samples", "segments")]


def _off_policy(runs: Sequence[dict[str, Any]], batches: str) -> str:
    """E.g. ``92 %, by 3.9 versions``; means over the runs, ``-`` where all failed.

    Versions before asynchronous training did not write it.
    """
    if not runs:
        return "-"
    found = [x[batches] for run in runs if (x := run.get("off_policy")) and x[batches]]
    if not found:
        return "none"
    share, lag = (np.mean([x[name] for x in found]) for name in ("share", "lag"))
    return f"{share:.0%}, by {lag:.1f} versions"


def _steps(value: int | None) -> str:
    return "never" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _drops(drops: Sequence[Mapping[str, Any]]) -> str:
    """E.g. ``2 (to 0.47)``."""
    return f"{len(drops)}{_to([x['lowest'] for x in drops])}"


def _to(lowest: Sequence[float]) -> str:
    return f" (to {min(lowest):.2f})" if lowest else ""
