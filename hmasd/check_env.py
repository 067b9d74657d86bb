"""`hmasd check-env NAME`: play an environment at random and say what would spoil training with it.

The env plays in a process of its own (`hmasd.envs.check_process`), so that one that hangs, dies or
floods the console becomes a line of the report.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence

from hmasd.envs.check_request import Report, Request
from hmasd.envs.player import Player, wait_for_answers
from hmasd.envs.registry import env_names

EXIT_FAULTS = 1
EXIT_BAD_INPUT = 2
_PROGRAM = "hmasd.envs.check_process"
_START_SECONDS = 120.0  # for the process itself, whose imports are not the env's


def main(argv: Sequence[str] | None = None) -> int:
    """Check one env; returns 0: no fault, 1: faults, 2: bad input."""
    try:
        request, timeout = parse(argv)
    except SystemExit as stop:  # --help, or a word that the parser refused and explained
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    problem = _bad_number(request, timeout)
    report = Report(problem) if problem else check_apart(request, timeout)
    return show(request.env, report)


def parse(argv: Sequence[str] | None) -> tuple[Request, float]:
    """What the command line asks for, and the seconds that one call of the env may take.

    Raises:
        SystemExit: a word was refused and explained, or --help was asked for.
    """
    args = vars(_parser().parse_args(argv))
    timeout = args.pop("timeout")
    return Request(**args), timeout


def show(env: str, report: Report) -> int:
    """Print a report; returns the exit code."""
    if report.problem is not None:
        print(f"error: {report.problem}", file=sys.stderr)
        return EXIT_BAD_INPUT
    for line in (*report.told, *(f"fault: {fault}" for fault in report.faults)):
        print(line)
    if report.faults:
        print(f"{env}: {len(report.faults)} fault(s); mend the first one first")
        return EXIT_FAULTS
    print("\n".join(report.seen))
    return 0


def check_apart(request: Request, timeout: float) -> Report:
    """Check in a process of its own, which may take `timeout` seconds for every single call."""
    child = _CheckProcess()
    with contextlib.ExitStack() as stack:
        stack.callback(child.end, 0.0)
        child.send(json.dumps(request))
        now, told, patience = "starting", (), _START_SECONDS
        while True:
            failure = wait_for_answers([child], patience).get(child)
            if failure is not None:
                return Report(told=told, faults=[f"{now} {failure}"])
            answer = json.loads(child.answer)
            if "now" not in answer:
                return Report(**answer)
            now, told, patience = answer["now"], answer["told"], timeout


class _CheckProcess(Player):
    """The process that plays."""

    remedy = "raise --timeout if it may take that long"

    def __init__(self) -> None:
        super().__init__(_PROGRAM)

    def place(self) -> str:
        """Nothing: what it was doing was told before."""
        return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hmasd check-env",
        description="Play an environment at random, three times over: as it comes, again from its "
        "seed, and again from a state saved halfway. Every fault is told with step, env, field and "
        "what to change; an env that hangs or ends its process, with the line where it is.",
        epilog=f"Envs: {', '.join(env_names())}; or one of your own: my_module:make_env, "
        "gym:MODULE:ID, pettingzoo:MODULE (docs/environments.md). Exit codes: 0 no fault, 1 "
        "faults, 2 bad input.",
    )
    default = Request._field_defaults
    parser.add_argument("env", help="name of the environment, or where to find it")
    parser.add_argument("--env-args", default="", help="its factory's arguments, a YAML mapping")
    parser.add_argument("--team-reward", choices=("sum", "mean"), default=default["team_reward"])
    for flag, told in (
        ("--num-envs", "copies to play"),
        ("--steps", "steps of each copy"),
        ("--episode-length", "limit of an episode"),
        ("--seed", "of the envs and of the actions"),
    ):
        value = default[flag[2:].replace("-", "_")]
        parser.add_argument(
            flag, type=int, default=value, metavar="N", help=f"{told} (default {value})"
        )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for one reset or step, and for making the env, before it counts as hanging "
        "(default 120)",
    )
    return parser


def _bad_number(request: Request, timeout: float) -> str | None:
    """The first number that is too small, in words."""
    for name, least in (("num_envs", 1), ("steps", 2), ("episode_length", 1), ("seed", 0)):
        if getattr(request, name) < least:
            return f"{name} = {getattr(request, name)} must be at least {least}"
    return None if timeout > 0 else f"timeout = {timeout:g} must be more than 0"


if __name__ == "__main__":
    sys.exit(main())
