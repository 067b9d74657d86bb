"""The tiny run that these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmasd.config import Config
from tests.helpers.runs import register_small_envs, tiny_config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run of a second on the `Counter` env, which the registry knows for this test."""
    register_small_envs(monkeypatch)
    return tiny_config(output_dir=str(tmp_path))
