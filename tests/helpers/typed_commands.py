"""The commands that documents tell a reader to type, held against the programs they name."""

import dataclasses
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

from torch.distributed import run as torch_run

from hmasd import cli, validation
from hmasd.commands import COMMANDS
from hmasd.config import Config
from tests.helpers.pages import ROOT, text_of

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SCRIPT = "train_sync_enhanced.py"
SHELL_WORDS = {"do", "done", "then", "else", "fi", "time", "nohup"}
FOREIGN_PROGRAMS = {"cd", ".", "source", "kill", "wait"}
FOREIGN_MODULES = {"pytest", "pip", "venv"}
FOREIGN_FLAGS = {"logdir", "upgrade", "depth", "recursive"} | {  # of sbatch and torchrun
    *("nodes", "cpus-per-task", "gpus-per-node", "max-restarts", "signal"),
    *("nnodes", "node-rank", "nproc-per-node", "master-addr", "master-port"),
}


class UnknownCommandError(Exception):
    """A document tells the reader to type something that the project does not know."""


def commands(script):
    """The simple commands of a shell script, each a list of words; a loop runs its first turn."""
    variables = {}
    for line in script.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s\d?>{1,2}\s*\S+", "", line.strip().removeprefix("$ "))
        line = re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1], m[0]), line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                if command[:1] == ["for"]:
                    variables[command[1]] = command[3]
                    command = []
                if command:
                    yield command
                command = []
            elif command or word not in SHELL_WORDS:
                assignment = None if command else re.fullmatch(r"(\w+)=(.*)", word)
                if assignment:
                    variables[assignment[1]] = assignment[2]
                else:
                    command.append(word)
                    for name, value in variables.items():  # set earlier on this line
                        command[-1] = re.sub(rf"\$\{{?{name}\b\}}?", value, command[-1])


def check_command(words):
    """Raise if the project does not know the command."""
    program, *rest = words
    program = Path(program).name or program
    if program in ("python", "python3"):
        check_python(rest)
    elif program == "make":
        check_make(rest)
    elif program == "hmasd":
        check_hmasd(rest)
    elif program == "pip":
        check_pip(rest)
    elif program == "sbatch":
        check_sbatch(rest)
    elif program == "kubectl":
        demand(any((ROOT / word).is_file() for word in rest) or rest[0] == "logs", words)
    elif program == "torchrun":
        check_torchrun(rest)
    elif program == "tensorboard":
        demand(rest[:1] == ["--logdir"] and len(rest) > 1, words)
    elif program == "git":
        demand(rest[:1] == ["clone"], words)
    else:
        demand(program in FOREIGN_PROGRAMS, words)


def demand(condition, words):
    if not condition:
        raise UnknownCommandError(shlex.join(words))


def check_python(words):
    if words[0] == SCRIPT:
        check_training(words[1:])
    elif words[0] == "-m":
        if words[1] in FOREIGN_MODULES:
            return
        demand(words[1].startswith("hmasd."), words)
        spec = importlib.util.find_spec(words[1])
        demand(spec is not None, words)
        check_program(Path(spec.origin), words[2:])
    else:
        check_program(ROOT / words[0], words[1:])


def check_training(argv):
    """The command line resolves to settings that pass every check but those of files."""
    try:
        config = cli.load_config(argv, stored=lambda _: {})
    except SystemExit as stop:
        demand(stop.code == 0, [SCRIPT, *argv])
        return
    except cli.ConfigError as error:
        raise UnknownCommandError(f"{SCRIPT} {shlex.join(argv)}: {error}") from error
    validation.validate(config)


def check_hmasd(words):
    """A command of `hmasd` exists and knows the flags; files need not exist here."""
    demand(words[:1] and words[0] in COMMANDS, ["hmasd", *words])
    name, *argv = words
    if name == "train":
        check_training(argv)
        return
    source = text_of(Path(importlib.util.find_spec(COMMANDS[name].module).origin))
    unknown = {word[2:].split("=")[0] for word in argv if word.startswith("--")} - own_flags(source)
    demand(not unknown - {"help"}, ["hmasd", *words])
    if name == "bench" and argv:
        demand((ROOT / argv[0]).is_file(), ["hmasd", *words])


def check_program(file, words):
    """A program of the project can be started and knows the flags."""
    demand(file.is_file(), [str(file), *words])
    source = file.read_text(encoding="utf-8")
    demand("__main__" in source, [str(file), *words])
    known = own_flags(source) | {"help"}
    if "load_config" in source:
        known |= setting_flags()
    unknown = {word[2:].split("=")[0] for word in words if word.startswith("--")} - known
    demand(not unknown, [str(file), *words])


def check_sbatch(words):
    """Slurm's own flags, the script, and flags of training."""
    script = next((i for i, word in enumerate(words) if word.endswith(".sh")), None)
    demand(script is not None and (ROOT / words[script]).is_file(), ["sbatch", *words])
    check_training(words[script + 1 :])


def check_torchrun(words):
    """Torchrun's own parser takes its flags; the rest is flags of training."""
    try:
        parsed = torch_run.get_args_parser().parse_args(words)
    except SystemExit:
        demand(False, ["torchrun", *words])
    demand(parsed.training_script == SCRIPT, ["torchrun", *words])
    check_training(parsed.training_script_args)


def check_make(words):
    for word in words:
        name, equals, value = word.partition("=")
        pattern = rf"^{re.escape(name)} \?=" if equals else rf"^{re.escape(name)}:"
        demand(re.search(pattern, MAKEFILE, re.MULTILINE), ["make", *words])
        if name == "ARGS" and "test" not in words:
            check_training(shlex.split(value))


def check_pip(words):
    demand(words[:1] == ["install"], ["pip", *words])
    for flag, value in itertools.pairwise(words):
        if flag in ("-c", "-r", "-e"):
            demand((ROOT / value.split("[")[0]).exists(), ["pip", *words])


def own_flags(source):
    return set(re.findall(r"""["']--([a-z][a-z0-9-]*)["']""", source))


def setting_flags():
    names = {field.name.replace("_", "-") for field in dataclasses.fields(Config)}
    return names | {f"no-{name}" for name in names} | {"preset", "config", "help"}
