"""A checkpoint holds all envs of a run; of a run's ranks each has some: joined and divided here.

What a rank has of its own is `OWN` of the agent's state and `OF_ENVS` beside it. Everything else is
the same on all ranks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hmasd.checkpoint import CheckpointError
from hmasd.distributed import Ranks
from hmasd.types import EnvShare

OWN = (
    "team",
    "critic_hidden",
    "low_storage",
    "high_storage",
    "discriminator_pairs",
    "next_view",
)
OF_ENVS = ("env", "view", "episodes")
State = dict[str, Any]


def gather(ranks: Ranks, own: State) -> list[State]:
    """What each rank has of its own, on rank 0; nothing on the others."""
    if ranks.world_size == 1:
        return [own]
    buffer = io.BytesIO()
    torch.save(own, buffer)
    return [
        torch.load(io.BytesIO(sent), map_location="cpu", weights_only=True)
        for sent in ranks.gather(buffer.getvalue())
    ]


def join(states: Sequence[State], num_envs: int, env_divides: bool) -> State:
    """What all ranks have, as one rank with all `num_envs` envs would have it.

    Args:
        states: of the ranks, in their order.
        num_envs: of all of them.
        env_divides: whether each array of an env batch's state has a row per env.
    """
    if len(states) == 1:
        return states[0]
    size = num_envs // len(states)
    first = states[0]

    def column(name: str) -> list[Any]:
        return [state[name] for state in states]

    return {
        "team": _cat(column("team")),
        "critic_hidden": _cat(column("critic_hidden")),
        "low_storage": {
            **first["low_storage"],
            "memory": _cat(_known_to_all([x["memory"] for x in column("low_storage")]), 1),
            "discarded": _cat(_flags([x["discarded"] for x in column("low_storage")], size)),
        },
        "high_storage": _join_segments(column("high_storage"), size),
        "discriminator_pairs": {
            **first["discriminator_pairs"],
            "pairs_added": sum(x["pairs_added"] for x in column("discriminator_pairs")),
            "memory": _cat_pairs([x["memory"] for x in column("discriminator_pairs")], size),
        },
        "next_view": _cat(column("next_view")),
        "view": _cat(column("view")),
        "env": _cat(column("env")) if env_divides else _numbered(column("env")),
        "episodes": {
            **first["episodes"],
            **{
                name: [x for episodes in column("episodes") for x in episodes[name]]
                for name in ("running_return", "running_length")
            },
        },
    }


def divide(whole: State, ranks: Ranks, num_envs: int, env_divides: bool) -> State:
    """What one rank has of what all have; see `join`.

    Raises:
        CheckpointError: the envs' state is in one piece for each of another number of ranks.
    """
    share = ranks.share(num_envs)
    env = whole["env"]
    env = _each(lambda x: x[share.rows], env) if env_divides else _own_piece(env, ranks)
    if share.size == share.total:
        return {**whole, "env": env}

    def mine(tree: Any, axis: int = 0) -> Any:
        return _each(lambda x: x.narrow(axis, share.first, share.size), tree)

    pairs, episodes = whole["discriminator_pairs"], whole["episodes"]
    return {
        "team": mine(whole["team"]),
        "critic_hidden": mine(whole["critic_hidden"]),
        "low_storage": {
            **whole["low_storage"],
            "memory": mine(whole["low_storage"]["memory"], 1),
            "discarded": mine(whole["low_storage"]["discarded"]),
        },
        "high_storage": _divide_segments(whole["high_storage"], share),
        "discriminator_pairs": {
            **pairs,
            "pairs_added": pairs["pairs_added"] // share.total * share.size,
            "memory": _each(
                lambda x: x.unflatten(0, (-1, num_envs))[:, share.rows].flatten(0, 1),
                pairs["memory"],
            ),
        },
        "next_view": mine(whole["next_view"]),
        "view": mine(whole["view"]),
        "env": env,
        "episodes": {
            **episodes,
            "running_return": episodes["running_return"][share.rows],
            "running_length": episodes["running_length"][share.rows],
        },
    }


def _numbered(pieces: Sequence[State]) -> State:
    """Every rank's state of its env batch, in one piece each."""
    return {str(rank): piece for rank, piece in enumerate(pieces)}


def _own_piece(env: State, ranks: Ranks) -> State:
    """This rank's env batch of those numbered."""
    pieces = [name for name in env if name.isdecimal()]
    if len(pieces or [0]) != ranks.world_size:
        raise CheckpointError(
            f"the checkpoint is of {len(pieces or [0])} process(es) and this run has "
            f"{ranks.world_size}, but this environment keeps the state of all its games in one "
            "piece: go on with as many processes"
        )
    return env[str(ranks.rank)] if pieces else env


def _each(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tree of dicts with every tensor changed; what is None stays so."""
    if isinstance(tree, dict):
        return {name: _each(change, branch) for name, branch in tree.items()}
    return None if tree is None else change(tree)


def _cat(trees: Sequence[Any], axis: int = 0) -> Any:
    """Trees of one form with their tensors joined."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _cat([tree[name] for tree in trees], axis) for name in first}
    return None if first is None else torch.cat(list(trees), axis)


def _cat_pairs(memories: Sequence[dict[str, Tensor]], size: int) -> dict[str, Tensor]:
    """Pairs [steps * E, ...] of all ranks, env after env in each step."""
    per_env = [_each(lambda x: x.unflatten(0, (-1, size)), x) for x in _known_to_all(memories)]
    return _each(lambda x: x.flatten(0, 1), _cat(per_env, 1))


def _known_to_all(memories: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Where some say who lives, the others say that all do."""
    if not any("alive" in memory for memory in memories):
        return list(memories)
    return [
        {"alive": torch.ones_like(memory["agent_skills"], dtype=torch.bool), **memory}
        for memory in memories
    ]


def _flags(found: Sequence[Tensor | None], size: int) -> list[Any]:
    """Flags of every rank's envs [E]; all None where none is set."""
    if all(flags is None for flags in found):
        return list(found)
    none = torch.zeros(size, dtype=torch.bool)
    return [none if flags is None else flags for flags in found]


def _rows(closed: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Closed segments as one batch; empty where there are none."""
    return _cat(closed) if closed else {}


def _join_segments(states: Sequence[State], size: int) -> State:
    """Those of earlier rounds stay in front of this round's; an env's stay in order of time."""
    early, late = [], []
    for rank, state in enumerate(states):
        rows, before = _rows(state["closed"]), state["closed_before"]
        if rows:
            rows["env"] = rows["env"] + rank * size
            early.append({name: x[:before] for name, x in rows.items()})
            late.append({name: x[before:] for name, x in rows.items()})
    return {
        **{name: _cat([state[name] for state in states]) for name in ("open", "before")},
        "closed": [*early, *late],
        "closed_before": sum(state["closed_before"] for state in states),
    }


def _divide_segments(whole: State, share: EnvShare) -> State:
    rows, before = _rows(whole["closed"]), whole["closed_before"]
    closed = []
    if rows:
        here = (rows["env"] >= share.first) & (rows["env"] < share.first + share.size)
        before = int(here[:before].sum())
        mine = _each(lambda x: x[here], rows)
        mine["env"] = mine["env"] - share.first
        closed = [mine] if len(mine["env"]) else []
    return {
        **{name: _each(lambda x: x[share.rows], whole[name]) for name in ("open", "before")},
        "closed": closed,
        "closed_before": before,
    }
