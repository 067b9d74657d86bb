"""What is written about a run by ranks other than the first: nothing."""

from __future__ import annotations

from typing import Any


class Silent:
    """In the place of a metrics log, a progress line and an evaluator."""

    def write(self, *_: Any) -> None:
        """A metrics log's."""

    def sync(self) -> None:
        """A metrics log's."""

    def update(self, *_: Any) -> None:
        """A progress line's."""

    def begin(self, *_: Any) -> dict[str, float]:
        """An evaluator's."""
        return {}

    def look(self, *_: Any) -> dict[str, float]:
        """An evaluator's."""
        return {}

    def finish(self, *_: Any) -> None:
        """An evaluator's."""

    def close(self) -> None:
        """Everybody's."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is to be closed."""
