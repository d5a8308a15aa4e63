"""Logging: JSON lines into logs/ingest.log, and a readable form on stderr when that is a terminal."""

import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import orjson
import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FOREIGN = (
    "amqtt",
    "transitions",
    "aiosqlite",
    "asyncio",
    "alembic",
    "mqtt",
    "uvicorn",
    "httpx",
    "httpcore",
    "websockets",
)
"""Libraries whose everyday lines would drown ours."""


class IngestLogFile(logging.handlers.RotatingFileHandler):
    """The log file, rotated by size; `reopen` after somebody else moved it away. Readable by the owner only."""

    def __init__(self, path: Path, max_bytes: int, keep_files: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=max_bytes, backupCount=keep_files, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A line that can't be written is lost: a full disk must not flood stderr as well."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def reopen(self) -> None:
        """Close the file and open it by its name again."""
        self.acquire()
        try:
            if self.stream is not None:
                self.stream.close()
            self.stream = self._open()
        finally:
            self.release()


@contextmanager
def logging_to(path: Path | None, level: str, max_bytes: int, keep_files: int) -> Iterator[IngestLogFile | None]:
    """Log to `path` (None: no file), and to stderr: readable on a terminal, warnings as JSON lines elsewhere."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    json = _formatter(shared, structlog.processors.JSONRenderer(serializer=_dumps))
    terminal = sys.stderr.isatty()
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_formatter(shared, structlog.dev.ConsoleRenderer()) if terminal else json)
    console.setLevel(_LEVELS[level] if terminal else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    file = None
    if path is not None:
        file = IngestLogFile(path, max_bytes, keep_files)
        file.setFormatter(json)
        handlers.append(file)
    root = logging.getLogger()
    before = root.level, [(name, logging.getLogger(name).level) for name in _FOREIGN]
    root.setLevel(_LEVELS[level])
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield file
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            if handler is not console:
                handler.close()
        root.setLevel(before[0])
        for name, foreign_level in before[1]:
            logging.getLogger(name).setLevel(foreign_level)
        structlog.reset_defaults()


def _formatter(shared: list[Any], renderer: Any) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def _dumps(event: Any, **_: Any) -> str:
    # Text from outside may hold what UTF-8 can't: it must not cost the line.
    try:
        return orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:
        safe = {key: str(value).encode("utf-8", "backslashreplace").decode() for key, value in event.items()}
        return orjson.dumps(safe).decode()
