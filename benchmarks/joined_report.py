"""One report over the runs of several comparisons, also of versions whose settings differ.

    python benchmarks/joined_report.py benchmarks/baselines.yaml --out bench/joined \
        --runs bench/every_seed bench/baselines

`hmasd bench` refuses runs of other settings, and every new setting is another one. Here each run of
the file is taken from the first folder that has it, and the report says what its settings were and
now are, so that a reader can tell whether that changed what was computed. Other games, budgets or
evaluations are refused here too. Nothing is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.bench import files
from hmasd.bench.job import MISSING, Job
from hmasd.bench.report import write_report
from hmasd.bench.spec import FAIR, RunKey, Spec, config_of, read_spec, run_keys
from hmasd.settings import ConfigError


def find(spec: Spec, key: RunKey, folders: Sequence[Path], names: Mapping[str, str]) -> Job:
    """The run in the first of the comparisons' folders where it ended, else in the last.

    `names`: what an algorithm of the file is called in the folders, where it is not the same.
    """
    episodes = spec.absolute_factor * spec.eval_episodes
    there = key._replace(algorithm=names.get(key.algorithm, key.algorithm))
    jobs = []
    for folder in folders:
        jobs.append(Job(key, config_of(spec, key, folder / files.RUNS / there.folder), episodes))
        if jobs[-1].state != "unfinished":
            break
    return jobs[-1]


def differences(job: Job) -> str | None:
    """Which settings of the run are not the file's, and how they were.

    Raises:
        ConfigError: One of them makes it no comparison.
    """
    job.check_measured()
    words = []
    for name, (old, new) in job.changed_settings().items():
        if old is MISSING:  # a version before the setting
            words.append(f"{name} did not exist, is {new!r}")
            continue
        words.append(f"{name} was {old!r}, is {new!r}")
        if name in FAIR:
            raise ConfigError(
                f"{job.folder} has {name} = {old!r}, the file {new!r}: no fair comparison; give "
                "the file of the same, or runs of the same"
            )
    return f"{job.key.algorithm}, settings that differ: {'; '.join(words)}" if words else None


def named(text: str) -> tuple[str, str]:
    """E.g. ``synchronous=default``."""
    new, equals, old = text.partition("=")
    if not (new and equals and old):
        raise argparse.ArgumentTypeError(f"{text!r} is not like synchronous=default")
    return new, old


def main() -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="of the comparison")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="--out of comparisons")
    parser.add_argument("--seeds", type=int, help="how many, where not the file's own number")
    parser.add_argument(
        "--names",
        type=named,
        nargs="+",
        default=[],
        help="NEW=OLD: what the file calls NEW lies in folders called OLD",
    )
    options = parser.parse_args()
    try:
        return join(options)
    except ConfigError as error:
        print("error: " + str(error).replace("\n", "\nerror: "), file=sys.stderr)
        return 2


def join(options: argparse.Namespace) -> int:
    """Find the runs, check them and write the report."""
    spec, names = read_spec(options.file), dict(options.names)
    for folder in options.runs:
        if not (folder / files.RUNS).is_dir():
            raise ConfigError(f"--runs {folder}: there is no {files.RUNS}/ in it; give an --out")
    wrong = sorted(names.keys() - spec.algorithms.keys())
    if wrong:
        raise ConfigError(
            f"--names {', '.join(wrong)}: the file's are {', '.join(spec.algorithms)}"
        )
    there = {path.name for folder in options.runs for path in (folder / files.RUNS).glob("*/*")}
    for new, old in names.items():
        if old not in there:
            raise ConfigError(f"--names {new}={old}: the runs' are {', '.join(sorted(there))}")
    if options.seeds is not None:
        if options.seeds < 1:
            raise ConfigError(f"--seeds {options.seeds} must be at least 1")
        spec = replace(spec, seeds=tuple(range(1, options.seeds + 1)))
    jobs = [find(spec, key, options.runs, names) for key in run_keys(spec)]
    notes = sorted({line for job in jobs if (line := differences(job)) is not None})
    print(write_report(spec, options.file.stem, jobs, options.out, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
