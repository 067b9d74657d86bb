"""Checkpoints: one file each, written atomically, verified before anything of it is used.

A file is what ``torch.save`` writes (a zip), sealed with a SHA-256 over all of its bytes in the
zip's comment, so that plain ``torch.load`` reads it too and no flipped bit goes unseen.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmasd.disk import write_whole
from hmasd.types import HOST_FIELDS

FORMAT = "hmasd-checkpoint"
VERSION = 14
STEM = "hmasd_sync_enhanced"
SHAPE_SETTINGS = (
    "env",
    "num_team_skills",
    "num_agent_skills",
    "skill_input",
    "critic_head",
    "critic_input",
    "low_level",
    "agent_id",
    "hidden_size",
    "coordinator_blocks",
    "coordinator_heads",
    "choice_residual",
)
"""The settings that decide which parameters there are, how large, and what they mean."""
ROUND_SETTINGS = (
    "env",
    "num_envs",
    "episode_length",
    "batch_size",
    "chunk_length",
    "sync_mode",
    "discriminator_rounds",
)
"""The settings that decide what else a checkpoint holds: envs, a started round, stored pairs.

`env_args` is none of them: a harder game of the same sizes may be what training goes on with. The
env itself refuses a saved state that does not fit.
"""

_NAME = re.compile(rf"{STEM}_(\d+|final)\.pth")
_SEAL = b"hmasd-sha256:"
_SEAL_LENGTH = len(_SEAL) + 64
_COMMENT_LENGTH = struct.Struct("<H")  # the last field of a zip's end record
_PLAIN = (type(None), bool, int, float, str)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used; the message says which, why and what to do."""


def checkpoint_path(folder: Path, env_steps: int | None) -> Path:
    """Returns the file name of a checkpoint.

    Args:
        folder: The folder of checkpoints, ``models/``.
        env_steps: Env steps trained so far; None for the final checkpoint of a run.
    """
    return Path(folder) / f"{STEM}_{'final' if env_steps is None else env_steps}.pth"


def policy_path(folder: Path, env_steps: int) -> Path:
    """Returns the file name of the networks that an evaluation measured; see `checkpoint_path`."""
    return Path(folder) / f"policy_{env_steps}.pth"


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint; at every moment `path` holds the old file or all of the new one.

    Args:
        path: Where to; its folder is made if it does not exist.
        content: Nested dicts, lists and tuples of tensors, numbers, strings, bools and None.

    Raises:
        TypeError: Something else is in `content`; the message names where.
        CheckpointError: The file cannot be written; an older file of that name is untouched.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(
        {"format": FORMAT, "version": VERSION, "content": _plain(content, "content")}, buffer
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _sealed(buffer.getvalue()))
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoint {path}: {error.strerror or error}. Make the folder "
            f"{path.parent} writable, free space on its disk, or choose another --output-dir."
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, verified: checksums first, then as data only (no code in it can run).

    Args:
        path: The file.

    Returns:
        What was given to `save`; tensors are on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged or no checkpoint; the message says which and
            names the newest good checkpoint of the same folder.
    """
    path = Path(path)
    try:
        return _read(path)
    except _UnusableError as error:
        folders = (path, path / "models") if path.is_dir() else (path.parent,)
        good = next(filter(None, (newest_good(folder, but=path) for folder in folders)), None)
        remedy = (
            f"The newest good checkpoint there is {good}: go on with --model-path {good}"
            if good is not None
            else f"There is no good checkpoint in {folders[0]}: start without --model-path"
        )
        raise CheckpointError(f"cannot load checkpoint {path}: {error}. {remedy}.") from error


def newest_good(folder: Path, but: Path | None = None) -> Path | None:
    """Finds the newest checkpoint of a folder that can be loaded, by really loading them.

    Newest is the one written last (runs may share the folder, so more steps need not be newer);
    of files written in the same instant the one with more env steps.

    Args:
        folder: Where to look.
        but: A file to leave out.

    Returns:
        The checkpoint, or None if there is none.
    """
    candidates = _candidates(Path(folder))
    skip = None if but is None else Path(but).name
    for path in sorted(candidates, key=lambda name: candidates[name], reverse=True):
        if path.name == skip:
            continue
        try:
            _read(path)
        except _UnusableError:
            continue
        return path
    return None


def load_module(
    name: str,
    module: nn.Module,
    state: Mapping[str, Any],
    saved_settings: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Loads a network's parameters and buffers after checking every name, shape and dtype.

    Args:
        name: What the network is called in messages.
        module: Takes the values; unchanged if anything does not fit.
        state: Its ``state_dict`` from the checkpoint.
        saved_settings: The checkpoint's configuration, field to value.
        settings: The configuration of this run, field to value.

    Raises:
        CheckpointError: Something does not fit; the message lists each tensor with what is in the
            file and what is here, and the settings to look at.
    """
    problems = _misfits(module.state_dict(), state)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        advice = _settings_to_look_at(saved_settings or {}, settings or {})
        raise CheckpointError(
            f"the checkpoint does not fit the network {name!r}:{lines}{more}\n{advice}"
        )
    module.load_state_dict(dict(state), strict=True)


class _UnusableError(Exception):
    """Why a file is no good checkpoint."""


def _plain(value: Any, where: str) -> Any:
    """Checks the types (what `load` would refuse is refused here) and makes tensors compact."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        # A view would drag the whole storage that it looks into along.
        is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if is_whole and tensor.is_contiguous() else tensor.contiguous().clone()
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}; keys must be str or int")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if type(value) in _PLAIN:
        return value
    raise TypeError(
        f"{where} is a {type(value).__module__}.{type(value).__name__}; a checkpoint holds dicts, "
        "lists, tensors, numbers, strings, bools and None (convert arrays with torch.from_numpy)"
    )


def _sealed(archive: bytes) -> bytes:
    """Appends the SHA-256 of the file as the zip's comment."""
    body = archive[: -_COMMENT_LENGTH.size] + _COMMENT_LENGTH.pack(_SEAL_LENGTH)
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode()


def _candidates(folder: Path) -> dict[Path, tuple[int, float]]:
    """Lists the files named like checkpoints, with (time of writing, env steps)."""
    found: dict[Path, tuple[int, float]] = {}
    if not folder.is_dir():
        return found
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            steps = math.inf if match[1] == "final" else int(match[1])
            found[path] = (path.stat().st_mtime_ns, steps)
    return found


def _read(path: Path) -> dict[str, Any]:
    """Reads and verifies one file.

    Raises:
        _UnusableError: Why it cannot be used.
    """
    data = _bytes_of(path)
    _check_archive(data)
    try:
        whole = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no set of errors
        reason = str(error).strip().splitlines()
        raise _UnusableError(
            f"its content is refused ({reason[0] if reason else error!r})"
        ) from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise _UnusableError(
            f"it does not carry the format tag {FORMAT!r}: not a file of this project"
        )
    if whole.get("version") != VERSION:
        raise _UnusableError(
            f"it has format version {whole.get('version')!r}, this program reads {VERSION}"
        )
    content: dict[str, Any] = whole["content"]
    return content


def _bytes_of(path: Path) -> bytes:
    """Reads the file."""
    if not path.exists():
        raise _UnusableError("there is no such file")
    if path.is_dir():
        raise _UnusableError("it is a folder, and a checkpoint is a file")
    if not path.is_file():
        raise _UnusableError("it is not a file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnusableError(f"it cannot be read ({error.strerror or error})") from error
    if not data:
        raise _UnusableError("it is empty (0 bytes)")
    return data


def _check_archive(data: bytes) -> None:
    """Checks that the file is a whole zip, its members' checksums, and the seal."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            broken = archive.testzip()
    except Exception as error:  # damaged headers raise nearly anything
        raise _UnusableError(
            f"it is not a whole zip archive ({error}): damaged or cut off"
        ) from error
    if broken is not None:
        raise _UnusableError(f"the checksum of {broken!r} in it is wrong: damaged")
    body, seal = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if not seal.startswith(_SEAL):
        raise _UnusableError(
            "it carries no seal: not a file of this project, or damaged at its end"
        )
    if seal[len(_SEAL) :].decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
        raise _UnusableError("its SHA-256 is not that of its seal: damaged")


def _misfits(here: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Lists what differs between a network and a saved ``state_dict``."""
    problems = []
    for key, tensor in here.items():
        saved = state.get(key)
        if not isinstance(saved, Tensor):
            problems.append(f"{key}: missing in the file, here {_describe(tensor)}")
        elif saved.shape != tensor.shape or saved.dtype != tensor.dtype:
            problems.append(f"{key}: {_describe(saved)} in the file, {_describe(tensor)} here")
    problems += [f"{key}: in the file, but not here" for key in state if key not in here]
    return problems


def _describe(tensor: Tensor) -> str:
    """Returns shape and dtype in words, e.g. ``[64, 11] float32``."""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _settings_to_look_at(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Names the settings that decide shapes and differ, or all that decide shapes."""
    differing = [
        f"{key} (in the file {saved[key]!r}, here {here[key]!r})"
        for key in SHAPE_SETTINGS
        if key in saved and key in here and saved[key] != here[key]
    ]
    if differing:
        return "Settings that differ: " + ", ".join(differing) + "."
    return "Settings to look at: " + ", ".join(SHAPE_SETTINGS) + "."


def check_generators(
    generators: dict[str, torch.Generator], states: dict[str, Tensor], device: str
) -> None:
    """Refuse the states of random generators that another kind of device made.

    Raises:
        CheckpointError: `device` is of another kind than the one that training began on.
    """
    if any(states[k].shape != g.get_state().shape for k, g in generators.items()):
        raise CheckpointError(
            "the checkpoint's random generators are of another kind of device than --device "
            f"{device}: training goes on on the kind it began on (--eval-only can be done on any)"
        )


def on_device(state: Any, device: torch.device) -> Any:
    """What a checkpoint holds of the round, its tensors where `HOST_FIELDS` wants them."""
    names = ("critic_hidden", "low_storage", "high_storage", "discriminator_pairs", "next_view")

    def place(path: tuple[Any, ...], x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        of_pairs = path[0].key == "discriminator_pairs"  # all on the device
        name = path[-1].key.removeprefix("following_")
        return x if name in HOST_FIELDS and not of_pairs else x.to(device)

    tree = {name: state[name] for name in names}
    return torch.utils._pytree.tree_map_with_path(place, tree)
