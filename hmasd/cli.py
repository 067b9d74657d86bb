"""The command line: which settings count, checks before anything runs, exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import tyro

from hmasd.config import Config
from hmasd.description import describe
from hmasd.disk import EXIT_FULL, is_full
from hmasd.launch import launched
from hmasd.presets import CHANGES, PRESETS
from hmasd.settings import (
    ConfigError,
    Entry,
    changed,
    nearest,
    read_python,
    read_yaml,
    stored_config,
)
from hmasd.validation import differing, validate

CONFIG_FILE = "config_1.py"
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_HELP = ("-h", "--help")
_SWITCHES = {f.name.replace("_", "-") for f in dataclasses.fields(Config) if f.type == "bool"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandLine:
    """What can be given on the command line."""

    preset: str | None = None
    """Named settings to start from, instead of config_1.py; the names are listed above. Of several,
    'paper_3m,mappo', each counts more than those before it."""
    config: Path | None = None
    """YAML file of settings, 'name: value' each; they count more than the preset's or
    config_1.py's, and less than the command line's."""
    settings: Annotated[Config, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=Config
    )


class _Sources(NamedTuple):
    """What the command line says about where settings come from."""

    preset: str | None
    config: Path | None
    model_path: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or evaluate a checkpoint; returns the exit code (--help lists them)."""
    try:
        config = load_config(sys.argv[1:] if argv is None else argv)
        validate(config, launched().world_size)
    except ConfigError as error:
        rank = launched().rank  # each tells its own: what is wrong may be wrong on one machine
        head = f"rank {rank}: error: " if rank else "error: "
        print(head + str(error).replace("\n", f"\n{head}"), file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except SystemExit as stop:  # --help, or a flag that the parser refused and explained
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    _say(describe(config, launched().world_size), sys.stdout)
    if config.auto_resume and config.model_path is not None:
        _say(f"going on from {config.model_path}", sys.stdout)
    return _run(config)


def _say(text: str, stream: TextIO) -> None:
    """Print what all processes of a run would say alike."""
    if launched().rank == 0:
        print(text, file=stream, flush=True)


def load_config(
    argv: Sequence[str], stored: Callable[[Path], Mapping[str, Any]] | None = None
) -> Config:
    """Resolve the settings: defaults < preset or config_1.py < --config file < command line.

    With --model-path the checkpoint's own settings stand in for the preset or config_1.py.

    Args:
        argv: The command line without the program's name.
        stored: Reads the settings that a checkpoint holds.

    Raises:
        ConfigError: A setting is unknown or of a wrong type, or a file cannot be read.
        SystemExit: After --help (0) or a wrong flag (2), which the parser has explained.
    """
    _refuse_values_of_switches(argv)
    sources = _sources(argv)
    file = {} if sources.config is None else read_yaml(sources.config)
    model_path = sources.model_path
    if model_path is None and "model_path" in file:
        model_path = changed(Config(), {"model_path": file["model_path"]}).model_path
    wants_help = any(word in _HELP for word in argv)
    if model_path is None or wants_help:
        base = _start(sources.preset)
    else:
        base = _stored(Path(model_path), sources.preset, stored or stored_settings)
    config = _parse(argv, changed(base, file))
    if model_path is not None:
        _refuse_other_shapes(base, config)
    return _go_on(config) if config.auto_resume and not wants_help else config


def _go_on(config: Config) -> Config:
    """The settings with the newest good checkpoint of their folder, if there is one.

    Raises:
        ConfigError: It is another run's: its networks or its round have other shapes.
    """
    from hmasd.checkpoint import newest_good

    path = newest_good(Path(config.output_dir) / "models")
    if path is None:
        return config
    config = dataclasses.replace(config, model_path=str(path))
    _refuse_other_shapes(stored_config(stored_settings(path), path), config)
    return config


def stored_settings(path: Path) -> Mapping[str, Any]:
    """The settings that a checkpoint holds.

    Raises:
        ConfigError: The file is missing, damaged or no checkpoint.
    """
    from hmasd import checkpoint

    try:
        content = checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content.get("config"), dict):
        raise ConfigError(f"{path} is a checkpoint without settings")
    return content["config"]


def find_config_1() -> Path | None:
    """config_1.py of the current folder, else the one beside the package, else None."""
    for folder in (Path(), Path(__file__).resolve().parents[1]):
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    return None


def _sources(argv: Sequence[str]) -> _Sources:
    """Read ahead the three flags that decide what the others stand on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model-path", "--model_path")
    return _Sources(**vars(parser.parse_known_args(argv)[0]))


def _start(preset: str | None) -> Config:
    """The defaults with presets or config_1.py over them."""
    if preset is not None:
        entries: dict[str, Entry] = {}
        for name in preset.split(","):
            if name not in PRESETS:
                raise ConfigError(
                    f"there is no preset {name!r}{nearest(name, PRESETS)}; the presets are "
                    f"{', '.join(PRESETS)}"
                )
            entries |= {k: Entry(v, f"preset {name}") for k, v in PRESETS[name].items()}
        return changed(Config(), entries)
    path = find_config_1()
    if path is None:
        return Config()
    entries = read_python(path)
    if "model_path" in entries:
        raise ConfigError(
            f"{entries['model_path'].place}: model_path cannot be set here, because a checkpoint "
            f"brings its own settings instead of {CONFIG_FILE}'s: use --model-path"
        )
    return changed(Config(), entries)


def _stored(path: Path, preset: str | None, stored: Callable[[Path], Mapping[str, Any]]) -> Config:
    """The settings that a checkpoint was trained with; its run's folder is where it lies now."""
    if preset is not None:
        raise ConfigError(
            f"--preset {preset} and --model-path {path} exclude each other: a checkpoint brings "
            "its own settings; leave --preset out"
        )
    config = stored_config(stored(path), path)
    if path.parent.name == "models":  # the stored folder may be relative, to another place
        config = dataclasses.replace(config, output_dir=str(path.parent.parent))
    return config


def _refuse_values_of_switches(argv: Sequence[str]) -> None:
    """A switch is on or off by its own name; the parser would only call the value unknown.

    Raises:
        ConfigError: Names the switch, the value and both ways to write it.
    """
    for word, following in zip(argv, [*argv[1:], "--"], strict=False):
        flag, equals, value = word.partition("=")
        name = flag.replace("_", "-").removeprefix("--").removeprefix("no-")
        if not equals:
            value = "" if following.startswith("-") else following
        if flag.startswith("--") and name in _SWITCHES and (equals or value):
            raise ConfigError(
                f"{flag} {value}: this is a switch, which takes no value: write --{name} for yes, "
                f"--no-{name} for no"
            )


def _refuse_other_shapes(old: Config, new: Config) -> None:
    """A checkpoint fits networks of its own shape and, to train on, a round of its own shape.

    Raises:
        ConfigError: A setting was given that changes them.
    """
    from hmasd.checkpoint import ROUND_SETTINGS, SHAPE_SETTINGS

    networks = tuple(name for name in SHAPE_SETTINGS if name != "env")
    held = [("networks", networks)] + ([] if new.eval_only else [("a round", ROUND_SETTINGS)])
    for what, names in held:
        different = differing(old, new, names)
        if different:
            raise ConfigError(
                f"{new.model_path} holds {what} of another shape ({'; '.join(different)}): leave "
                "these settings out, or start without --model-path"
            )


def _parse(argv: Sequence[str], base: Config) -> Config:
    """The command line over `base`; only what it names changes."""
    parsed = tyro.cli(
        CommandLine,
        prog="train_sync_enhanced.py",
        description=_description(argv),
        args=list(argv),
        default=CommandLine(settings=base),
    )
    return parsed.settings


def _description(argv: Sequence[str]) -> str:
    """What --help says before the flags."""
    if not any(word in _HELP for word in argv):
        return ""
    from hmasd.envs.registry import env_names

    return "\n".join(
        (
            "Train HMASD synchronously and strictly on-policy, or evaluate a checkpoint.",
            "",
            f"Settings: defaults < --preset or {CONFIG_FILE} < --config FILE < these flags. With",
            f"--model-path the checkpoint's settings stand in for --preset or {CONFIG_FILE}.",
            "",
            f"Envs: {', '.join(env_names())}",
            "",
            f"Presets: {', '.join(name for name in PRESETS if name not in CHANGES)}",
            f"Changes to lay over a preset, --preset NAME,CHANGE: {', '.join(CHANGES)}",
            "",
            "Exit codes: 0 done; 1 training failed; 2 bad input, nothing was run; 4 disk full;",
            "after saving: 130 stopped by SIGINT, 143 by SIGTERM, 129 by SIGHUP (terminal closed).",
        )
    )


def _train(config: Config) -> int:
    """Train with all processes of the run; a failure here is told to the others."""
    from hmasd.distributed import join
    from hmasd.training.loop import train

    with join(config.device, config.reduce_timeout, config.rank_timeout) as ranks:
        return train(config, ranks)


def _run(config: Config) -> int:
    """Do the work; an error becomes a message, and a traceback in the text log."""
    import torch

    torch.set_num_threads(config.threads)  # before any work: more threads than free cores collapse
    try:
        if config.eval_only:
            from hmasd.training.evaluation import evaluate_checkpoint

            return evaluate_checkpoint(config)
        return _train(config)
    except KeyboardInterrupt:
        print("stopped; nothing more was saved", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if logging.getLogger("hmasd").handlers:
            logger.debug("the traceback of the error", exc_info=True)
        what = "evaluation" if config.eval_only else "training"
        print(f"error: {what} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FULL if is_full(error) else EXIT_FAILED
