"""The text log: ``logs/<run name>.log`` at the configured level, warnings on the console too."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

LOGGER_NAME = "hmasd"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def set_up_logging(output_dir: Path, run_name: str, level: str = "INFO") -> logging.Logger:
    """Directs the logger ``hmasd`` and those below it to a file and to the console.

    Calling it again replaces the handlers of the call before; nothing is written twice.

    Args:
        output_dir: Folder in which ``logs/`` is made.
        run_name: Name of the run; the file is ``logs/<run name>.log``, appended to.
        level: Least severe level of the file: DEBUG, INFO, WARNING or ERROR.

    Returns:
        The logger.

    Raises:
        OSError: The file cannot be written; the message names it and the remedy.
    """
    path = Path(output_dir) / "logs" / f"{run_name}.log"
    logger = logging.getLogger(LOGGER_NAME)
    to_file = _file_handler(path)
    to_file.setLevel(level)
    to_console = _ConsoleHandler()
    to_console.setLevel(max(logging.WARNING, to_file.level))
    close_logging()
    for handler in (to_file, to_console):
        handler.setFormatter(logging.Formatter(_FORMAT))
        handler.set_name(f"{LOGGER_NAME}:{type(handler).__name__}")
        logger.addHandler(handler)
    logger.setLevel(level)
    return logger


def close_logging() -> None:
    """Undoes `set_up_logging`: removes and closes its handlers."""
    logger = logging.getLogger(LOGGER_NAME)
    for handler in list(logger.handlers):
        if (handler.name or "").startswith(f"{LOGGER_NAME}:"):
            logger.removeHandler(handler)
            handler.close()
            logger.setLevel(logging.NOTSET)


class _ConsoleHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is now: the live progress line replaces it for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # logging never stops a program; this is its own way to say so
            self.handleError(record)


def _file_handler(path: Path) -> logging.FileHandler:
    """Opens the log file for appending."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"cannot write the log {path}: {error.strerror or error}. Make {path.parent} writable "
            "or choose another --output-dir."
        ) from error
