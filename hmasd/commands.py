"""`hmasd COMMAND ...`: one name for all that can be done; each command has its own --help."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from hmasd.settings import nearest


class Command(NamedTuple):
    """Where a command is, imported only when it is asked for."""

    module: str  # offers main(argv) -> exit code
    summary: str


COMMANDS = {
    "train": Command("hmasd.cli", "train, or evaluate a checkpoint; as train_sync_enhanced.py"),
    "check-env": Command("hmasd.check_env", "play an environment at random and list its faults"),
    "bench": Command("hmasd.bench.command", "compare algorithms over tasks and seeds"),
    "play": Command("hmasd.play", "watch a trained team play: a GIF with the skills on it"),
}
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else EXIT_BAD_INPUT
    name, *rest = words
    if name not in COMMANDS:
        message = f"error: there is no command {name!r}{nearest(name, COMMANDS)}"
        print(f"{message}\n\n{_help()}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return importlib.import_module(COMMANDS[name].module).main(rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = (f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return "\n".join(("usage: hmasd COMMAND [--help] ...", "", *rows))


if __name__ == "__main__":
    sys.exit(main())
