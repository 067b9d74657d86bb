"""From the runs' folders to tables, figures and rows that other programs read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hmasd.bench import figures, files, tables
from hmasd.bench.diagnosis import LOST, SOLVED
from hmasd.bench.job import Job
from hmasd.bench.results import (
    Record,
    Scores,
    episode_rows,
    evaluation_steps,
    marl_eval,
    missing_pieces,
    read_record,
    scores,
    tells_success,
    write_rows,
)
from hmasd.bench.spec import Spec, budget
from hmasd.bench.statistics import wilson_interval

DPI = 130


def write_report(
    spec: Spec, name: str, jobs: Sequence[Job], folder: Path, notes: Sequence[str] = ()
) -> Path:
    """Write everything that the runs so far tell; returns the path of report.md.

    Args:
        spec: What is compared.
        name: Of the comparison.
        jobs: All its runs, finished or not.
        folder: Made if it does not exist; older files in it are replaced.
        notes: What a reader has to know of the runs, one line each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [read_record(job) for job in jobs]
    found = scores(spec, records)
    write_rows(folder / "episodes.jsonl", episode_rows(records))
    files.write_json(folder / "marl_eval.json", marl_eval(name, spec, records))
    notes = [*notes, *_warnings(spec, records)]
    parts = [_head(spec, name, records), *(f"- {note}" for note in notes)]
    parts += [""] if notes else []
    latex = []
    for task in spec.tasks:
        table = tables.score_table(spec, task, found[task], records)
        parts += [f"## {task}, {budget(spec, task):,} env steps\n", tables.markdown(table)]
        latex += [f"% {task}", tables.latex(table)]
        for more in (tables.steadiness_table, tables.runs_table):
            table = more(spec, task, records)
            if len(table) > 1:
                parts.append(tables.markdown(table))
                latex.append(tables.latex(table))
        if found[task]:
            parts += _task_figures(spec, task, found[task], folder)
        if found[task] and tells_success(spec, task, records):
            parts.append(_save(folder, f"solved_{task}", _draw_solved(task, found[task])))
    parts += _over_tasks(spec, found, folder, latex)
    parts += _diagnosis(jobs, records, folder)
    (folder / "tables.tex").write_text("\n".join(latex), encoding="utf-8")
    path = folder / "report.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _head(spec: Spec, name: str, records: Sequence[Record]) -> str:
    factor, episodes = spec.absolute_factor, spec.eval_episodes
    return (
        f"# {name}\n\n"
        f"Runs finished: {tables.count_states(records)}; seeds {', '.join(map(str, spec.seeds))}"
        f"{_commits(records)}. "
        f"Evaluations every {spec.eval_interval:,} env steps, {episodes} episodes each of greedy "
        f"and of stochastic play. Scores are the {spec.metric} of each run's best policy on "
        f"{factor} x {episodes} new episodes; interquartile means with 95 % bootstrap intervals, "
        "shares with Wilson intervals. A run that failed counts as not solved and with score 0. "
        "Solved: greedy and stochastic play of the best (at the end: the last) policy both reach "
        f"a success of {' '.join([f'{spec.solved:g}.', *_scales(spec)])}\n"
    )


def _scales(spec: Spec) -> Iterator[str]:
    """Where numbers of the report go by different scales or bars."""
    if spec.metric == "return":
        yield (
            "Each task's tables show returns as they are; figures, and what is said over all "
            "tasks, go by scaled ones: 0 is a task's lowest, 1 its highest."
        )
    if spec.solved != SOLVED:
        yield (
            f"What is said of steadiness, and of when and why runs learned, goes by {SOLVED:g} and "
            f"{LOST:g} all the same."
        )


def _warnings(spec: Spec, records: Sequence[Record]) -> Iterator[str]:
    """What makes some numbers mean less than they seem to."""
    for record in records:
        for piece in missing_pieces(spec, record):
            yield f"**{'/'.join(map(str, record.key))} is damaged**: {piece}"
    for task in spec.tasks:
        rows = [row for record in records if record.key.task == task for row in record.rows]
        if spec.metric == "success" and rows and not any(row["success"] for row in rows):
            yield (
                f"**No episode on {task} succeeded**: if its env does not tell success, compare by "
                "`metric: return`"
            )


def _commits(records: Sequence[Record]) -> str:
    """Which versions of the program made the runs, and how many each; nothing where unknown."""
    found = Counter(", then ".join(record.commits) for record in records if record.commits)
    words = [f"{commits} ({number})" for commits, number in sorted(found.items())]
    return f"; made by commit{'s' * (len(words) > 1)} {'; '.join(words)}" if words else ""


def _task_figures(spec: Spec, task: str, found: Mapping[str, Scores], folder: Path) -> list[str]:
    steps = evaluation_steps(spec, task)
    curves = {name: x.curves for name, x in found.items()}
    score = "success" if spec.metric == "success" else "scaled return"
    return [
        _save(folder, f"comparison_{task}", figures.draw_comparison(task, steps, curves, score)),
        _save(folder, f"runs_{task}", figures.draw_runs(task, steps, curves, score)),
    ]


def _draw_solved(task: str, found: Mapping[str, Scores]) -> Figure:
    shares = {
        name: wilson_interval(int(x.solved.sum()), len(x.solved)) for name, x in found.items()
    }
    return figures.draw_intervals(
        f"{task}: share of runs solved", shares, label="runs, with 95 % Wilson intervals"
    )


def _over_tasks(
    spec: Spec, found: Mapping[str, Mapping[str, Scores]], folder: Path, latex: list[str]
) -> list[str]:
    """Comparisons over all tasks, of the algorithms that have runs on each of them."""
    complete = {
        name: [found[task][name].overall for task in spec.tasks]
        for name in spec.algorithms
        if all(name in found[task] for task in spec.tasks)
    }
    if not complete:
        return []
    parts = ["## All tasks\n"]
    missing = [name for name in spec.algorithms if name not in complete]
    first = next(iter(spec.algorithms))
    if missing:
        parts.append(f"Without a run on every task yet: {', '.join(missing)}.\n")
    if first in missing:
        parts.append(f"So there is nothing to compare the others with: {first} is the first.\n")
    if first in complete and len(complete) > 1:
        intervals, table = tables.improvement_table(complete)
        latex += ["% all tasks", tables.latex(table)]
        drawn = figures.draw_intervals(
            f"Probability that a run of {first} beats one of the other",
            intervals,
            middle=0.5,
            label="95 % bootstrap intervals; right of the middle: better than the other",
        )
        parts += [tables.markdown(table), _save(folder, "improvement", drawn)]
    return [*parts, _save(folder, "profile", figures.draw_profiles(complete))]


def _diagnosis(jobs: Sequence[Job], records: Sequence[Record], folder: Path) -> list[str]:
    """The table over runs, and skills' distances against the accuracy of a q_d that is trained."""
    table = tables.diagnosis_table(records)
    if len(table) == 1:
        return []
    parts = ["## Why runs learn or not\n", tables.markdown(table)]
    dots: dict[str, list[tuple[bool, list[tuple[float, float]]]]] = {}  # by task
    for job, record in zip(jobs, records, strict=True):
        config = job.config
        is_trained = config.low_level == "discoverer" and config.individual_coef > 0
        if record.diagnosis is None or not is_trained:
            continue
        learned = record.diagnosis["first"]["training_0.5"] is not None
        look = record.diagnosis["skills"]["before_success" if learned else "last"]
        if look is not None:
            pairs = [(x["nearest"], x["accuracy"]) for x in look["pairs"]]
            known = [pair for pair in pairs if pair[0] is not None]
            dots.setdefault(job.key.task, []).append((learned, known))
    for task, runs in dots.items():
        if any(skills for _, skills in runs):
            drawn = figures.draw_distances(task, runs)
            parts.append(_save(folder, f"distances_{task}", drawn))
    return parts


def _save(folder: Path, name: str, figure: Figure) -> str:
    """Write a picture; returns its line for the report."""
    (folder / "figures").mkdir(exist_ok=True)
    figure.savefig(folder / "figures" / f"{name}.png", dpi=DPI)
    return f"![{name}](figures/{name}.png)\n"
