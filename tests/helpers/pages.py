"""The documents, and what of them is to be read by a program."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / "SYNC_TRAINING_README.md"
PAGES = [README, GUIDE, *sorted((ROOT / "docs").glob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """Fenced blocks of some languages; without any, those without one."""
    found = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(body) for language, body in found if language in (languages or ("",))]


def explained_metrics():
    """Tags of docs/metrics.md; ``{i}`` in one stands for the number of a skill, from 0."""
    page = text_of(ROOT / "docs" / "metrics.md")
    return set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
