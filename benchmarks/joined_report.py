"""One report over the runs of several comparisons, also of versions whose settings differ.

    python benchmarks/joined_report.py benchmarks/baselines.yaml --out bench/joined \
        --runs bench/every_seed bench/baselines

`hmasd bench` refuses runs of other settings, and every new setting is another one. Here each run of
the file is taken from the first folder that has it; what its settings were and now are is printed,
so that somebody can tell whether that changed what was computed. Nothing is run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.bench import files
from hmasd.bench.job import Job
from hmasd.bench.report import write_report
from hmasd.bench.spec import RunKey, Spec, config_of, read_spec, run_keys
from hmasd.settings import ConfigError


def find(spec: Spec, key: RunKey, folders: list[Path]) -> Job:
    """The run in the first of the comparisons' folders where it ended, else in the last."""
    episodes = spec.absolute_factor * spec.eval_episodes
    jobs = []
    for folder in folders:
        jobs.append(Job(key, config_of(spec, key, folder / files.RUNS / key.folder), episodes))
        if jobs[-1].state != "unfinished":
            break
    return jobs[-1]


def differences(job: Job) -> list[str]:
    """What `hmasd bench` would refuse the run for, in its words after the folder's name."""
    try:
        job.check_settings()
    except ConfigError as error:
        return [f"{job.key.algorithm}: {str(error).removeprefix(str(job.folder)).strip()}"]
    return []


def main() -> None:
    """Write the report; print whose settings were others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="of the comparison")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="--out of comparisons")
    parser.add_argument("--seeds", type=int, help="how many, where not the file's own number")
    options = parser.parse_args()
    spec = read_spec(options.file)
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds {options.seeds} must be at least 1")
    if options.seeds is not None:
        spec = replace(spec, seeds=tuple(range(1, options.seeds + 1)))
    jobs = [find(spec, key, options.runs) for key in run_keys(spec)]
    for line in sorted({line for job in jobs for line in differences(job)}):
        print(line)
    print(write_report(spec, options.file.stem, jobs, options.out))


if __name__ == "__main__":
    main()
