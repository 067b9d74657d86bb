"""Settings from files: config_1.py and YAML become checked values of the configuration's fields."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from hmasd.config import Config


class ConfigError(ValueError):
    """A setting cannot be used; the message says which, where it stands and what to do."""


class Entry(NamedTuple):
    """One setting as a file has it."""

    value: Any
    place: str  # "file, line n"


def field_types() -> dict[str, Any]:
    """The configuration's fields and their types."""
    return typing.get_type_hints(Config)


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that name the known name most like `name`, or nothing."""
    found = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def read_python(path: Path) -> dict[str, Entry]:
    """Settings of a Python file that holds values only; nothing in it is executed.

    Args:
        path: A file of lines `name = value`, each value a number, a string, True, False or None.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        tree = ast.parse(_text(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not Python: {error.msg}") from error
    entries: dict[str, Entry] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        place = f"{path}, line {statement.lineno}"
        name, node = _assignment(statement, place)
        if name in entries:
            raise ConfigError(f"{place}: {name} is set a second time, first {entries[name].place}")
        try:
            entries[name] = Entry(ast.literal_eval(node), place)
        except ValueError as error:
            raise ConfigError(
                f"{place}: {name} = {ast.unparse(node)} is no plain value; this file holds "
                "numbers, strings, True, False and None only"
            ) from error
    return entries


def read_yaml(path: Path) -> dict[str, Entry]:
    """Settings of a YAML file, `name: value` each.

    Raises:
        ConfigError: It cannot be read, or is no mapping of names.
    """
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply for a file of settings") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError(f"{path} must hold lines 'name: value', one per setting")
    _refuse_doubles(node, path)
    lines = _lines_of_keys(node, path)
    return {
        str(name): Entry(value, f"{path}, line {lines.get(str(name), 1)}")
        for name, value in values.items()
    }


def _lines_of_keys(node: yaml.MappingNode, path: Path) -> dict[str, int]:
    """Where each key of a mapping stands.

    Raises:
        ConfigError: A key is there twice, of which YAML would silently keep the last.
    """
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"{path}, line {line}: {key.value} is set a second time, first in line "
                f"{lines[key.value]}"
            )
        lines[key.value] = line
    return lines


def _refuse_doubles(root: yaml.MappingNode, path: Path) -> None:
    """The same for mappings inside mappings; an alias leads to what was looked at already."""
    waiting: list[yaml.Node] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode) and id(node) not in seen:
            _lines_of_keys(node, path)
            waiting += [inner for _, inner in node.value]
        elif isinstance(node, yaml.SequenceNode) and id(node) not in seen:
            waiting += node.value
        seen.add(id(node))


def checked(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The values, each of its field's type.

    Raises:
        ConfigError: Names every unknown setting and every value of a wrong type.
    """
    known = field_types()
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, (value, place) in entries.items():
        if name not in known:
            problems.append(f"{place}: there is no setting {name!r}{nearest(name, known)}")
            continue
        if name == "env_args" and isinstance(value, dict):  # it is text that holds a mapping
            value = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
            value = value.strip()
        try:
            values[name] = _as_type(value, known[name])
        except TypeError as error:
            problems.append(f"{place}: {name} = {value!r}: expected {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return values


def changed(config: Config, entries: Mapping[str, Entry]) -> Config:
    """The configuration with the settings of a file put over it."""
    return dataclasses.replace(config, **checked(entries))


def stored_config(stored: Mapping[str, Any], path: Path) -> Config:
    """The configuration of a checkpoint's settings; those that it has not are the defaults.

    Args:
        stored: Field to value.
        path: The checkpoint, for messages.

    Raises:
        ConfigError: Names every unknown setting and every value of a wrong type.
    """
    place = f"settings stored in {path}"
    return changed(Config(), {name: Entry(value, place) for name, value in stored.items()})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the settings of {path}: {reason}") from error


def _assignment(statement: ast.stmt, place: str) -> tuple[str, ast.expr]:
    """Name and value of `name = value` or `name: type = value`."""
    targets: list[ast.expr] = []
    value = None
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign):
        targets, value = [statement.target], statement.value
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or value is None:
        raise ConfigError(
            f"{place}: {ast.unparse(statement)!r} is no 'name = value'; this file holds values only"
        )
    return targets[0].id, value


def _as_type(value: Any, wanted: Any) -> Any:
    """The value as the field's type.

    Raises:
        TypeError: It is not; the message says what is expected.
    """
    options = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        if value not in options:
            near = nearest(value, options) if isinstance(value, str) else ""
            raise TypeError(f"one of {', '.join(map(repr, options))}{near}")
        return value
    if isinstance(wanted, types.UnionType):
        if value is None and type(None) in options:
            return None
        (inner,) = (option for option in options if option is not type(None))
        return _as_type(value, inner)
    if wanted is float:
        return _as_float(value)
    if type(value) is not wanted:
        raise TypeError(_EXPECTED[wanted])
    return value


_EXPECTED = {
    int: "a whole number, written in digits (as 3000000)",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _as_float(value: Any) -> float:
    """A float of a number, or of text such as 5e-4, which YAML does not read as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(_EXPECTED[float])
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise TypeError(_EXPECTED[float]) from None
