"""The program that plays evaluations beside training, one policy file after the other.

The parent sends the path of a policy file as a line of JSON; the answer is a line of JSON with its
`metrics` and `rows`, or with the `failure` that kept it from being played. The program ends when
the parent's end of the requests closes, or with the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hmasd.processes import die_with, leave_signals_to_the_parent, tell_where_it_hangs

if TYPE_CHECKING:
    from hmasd.training.evaluation import Evaluation

NICENESS = 10  # a tenth of a processor where others want all of it, all of it where none does


def main(argv: list[str]) -> None:
    """Serve the parent until it closes the requests; argv: requests, answers, its pid."""
    requests, answers, parent = map(int, argv)
    tell_where_it_hangs()
    die_with(parent)
    leave_signals_to_the_parent()
    give_way()
    from hmasd.training.evaluation import evaluate_policy  # torch, at low priority already

    with os.fdopen(requests) as asked, os.fdopen(answers, "w") as told:
        for line in asked:
            told.write(_answer(evaluate_policy, Path(json.loads(line))) + "\n")
            told.flush()


def give_way() -> None:
    """Leave the processors to training where it needs them.

    The program has a session of its own, which Linux gives a whole share of the machine whatever
    the priorities of the processes in it (sched(7), autogroup): so the session's is lowered, too.
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # a kernel without autogroups
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _answer(evaluate: Callable[[Path], Evaluation], path: Path) -> str:
    """Play what a file holds; what fails is told, and the next file may do better."""
    try:
        return json.dumps(evaluate(path)._asdict(), allow_nan=False)
    except Exception as error:
        what = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        return json.dumps({"failure": what})


if __name__ == "__main__":
    main(sys.argv[1:])
