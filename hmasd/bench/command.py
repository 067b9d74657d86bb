"""Run a comparison and report it: tasks x algorithms x seeds from one YAML file.

    hmasd bench benchmarks/exact_game.yaml --out bench/exact_game

The file holds (docs/benchmarking.md tells what and why):

    env_steps: 1000000          # budget of every run
    eval_interval: 100000       # env steps between evaluations of a frozen policy
    eval_episodes: 100          # each of greedy and of stochastic play
    absolute_factor: 10         # the best policy is measured on 10 x 100 new episodes
    seeds: 10                   # or a list
    tasks:
      exact: {env: alice_and_bob}
    algorithms:                 # the first is compared with each of the others
      default: {}
      paper: {preset: paper_alice_and_bob}

A comparison that was stopped or killed goes on when the same command is given again: finished runs
are kept, interrupted ones go on from their last checkpoint to the same result. A run that fails is
counted as failed and never left out.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hmasd.bench import files
from hmasd.bench.job import Job
from hmasd.bench.report import write_report
from hmasd.bench.runner import available_cores, check_settings, make_jobs, run_jobs
from hmasd.bench.spec import read_spec
from hmasd.disk import EXIT_FULL, is_full
from hmasd.settings import ConfigError
from hmasd.validation import device_problems

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="hmasd bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 all runs finished; 1 some failed or are missing; 2 bad input; "
        "4 the disk is full; 129 stopped by SIGHUP, 130 by SIGINT, 143 by SIGTERM.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="what to compare")
    parser.add_argument("--out", type=Path, help="folder of the runs and the report; bench/NAME")
    parser.add_argument("--jobs", type=int, help="runs at a time; as many as there are cores")
    parser.add_argument("--report-only", action="store_true", help="report what there is, run none")
    parser.add_argument("--retry", action="store_true", help="go on with runs that failed as well")
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:  # --help, or a flag that the parser refused and explained
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    out = options.out or Path("bench") / options.file.stem
    try:
        return _bench(options, out)
    except ConfigError as error:
        print("error: " + str(error).replace("\n", "\nerror: "), file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # whoever read the output is gone: no matter of the folder
        raise
    except OSError as error:
        remedy = "choose another --out, or see that it can be written and the disk has room"
        print(f"error: --out {out} cannot be used: {error}; {remedy}", file=sys.stderr)
        return EXIT_FULL if is_full(error) else EXIT_BAD_INPUT


def _bench(options: argparse.Namespace, out: Path) -> int:
    """Run, then report."""
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs} must be at least 1")
    spec = read_spec(options.file)
    jobs = make_jobs(spec, out)
    code = 0
    if options.report_only:
        _refuse_nothing(out)
    else:
        _refuse_devices(jobs)
        (out / files.RUNS).mkdir(parents=True, exist_ok=True)  # one error, not one of every run
        at_a_time = options.jobs or available_cores()
        print(f"{len(jobs)} runs in {out}, {at_a_time} at a time", flush=True)
        code = run_jobs(jobs, at_a_time, options.retry)
        try:
            check_settings(jobs)
        except ConfigError as error:  # another comparison made some of them meanwhile
            print(f"error: {error}", file=sys.stderr)
            return code or EXIT_BAD_INPUT
    path = write_report(spec, options.file.stem, jobs, out / files.REPORT)
    print(f"report: {path}")
    for job in jobs:
        if job.state == "failed":
            _tell_failure(job)
        if job.state == "unfinished" and job.stopped_by is not None:
            _tell_stop(job, job.stopped_by)
    finished = all(job.state == "finished" for job in jobs)
    return code or (0 if finished else EXIT_FAILED)


def _refuse_nothing(out: Path) -> None:
    """A mistyped folder would be made, and a report of nothing in it."""
    if not (out / files.RUNS).is_dir():
        raise ConfigError(f"--out {out} has no {files.RUNS}/: there is nothing to report")


def _refuse_devices(jobs: Sequence[Job]) -> None:
    """Runs that were made on another machine can be reported anywhere, but not gone on with."""
    configs = [job.config for job in jobs if job.state != "finished"]
    problems = dict.fromkeys(line for config in configs for line in device_problems(config))
    if problems:
        raise ConfigError("\n".join(problems) + "; --report-only reports what there is")


def _tell_stop(job: Job, by: signal.Signals) -> None:
    """That a run alone was stopped from outside, which shows nowhere else."""
    print(
        f"not finished: {job.key.task}/{job.key.algorithm}/{job.key.seed} (stopped by {by.name}); "
        "the same command goes on",
        file=sys.stderr,
    )


def _tell_failure(job: Job) -> None:
    """What a run failed of, and the two ways to go on."""
    failure = files.read_failure(job.folder)
    print(
        f"failed: {job.key.task}/{job.key.algorithm}/{job.key.seed}: {failure['last_words']} "
        f"(all in {job.folder / files.LOG}); --retry goes on from its last checkpoint, without "
        "its folder it begins anew",
        file=sys.stderr,
    )
