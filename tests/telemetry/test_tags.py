"""Every metric is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hmasd.telemetry.tags import TAGS, meaning, usage_tags

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tag", TAGS)
def test_the_page_explains_the_tag(tag: str) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{tag}` |")]
    assert len(rows) == 1, f"docs/metrics.md must have one table row for {tag}"
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(cells) == 4, "tag, meaning, unit, what is healthy and what to do"
    assert all(len(cell) > 0 for cell in cells)


def test_the_page_names_no_tag_that_does_not_exist() -> None:
    assert set(re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)) == set(TAGS)


def test_numbered_tags_have_a_meaning() -> None:
    assert usage_tags(1, 2) == [
        "skill/team_usage_0",
        "skill/agent_usage_0",
        "skill/agent_usage_1",
    ]
    assert all(meaning(tag) for tag in usage_tags(3, 12))
    assert meaning("skill/team_usage_12") == TAGS["skill/team_usage_{i}"]
    assert meaning("nonsense") is None
