"""What torch's exporter says, taken into the build's log instead of the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LogSink = Callable[[str, str], None]
"""Takes a level (debug, info, warning, error) and a line."""

_LOGGERS = ("torch", "onnxscript", "onnx_ir")


class _SinkHandler(logging.Handler):
    def __init__(self, sink: LogSink | None):
        super().__init__(logging.WARNING)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        # Absent vision operators are reported on every export and concern no language model.
        if self._sink is not None and "torchvision" not in record.getMessage():
            self._sink(record.levelname.lower(), f"{record.name}: {record.getMessage()}")


@contextmanager
def captured_log(sink: LogSink | None) -> Iterator[None]:
    """Send log records and warnings of the exporter to `sink` (None drops them) while the body runs."""
    handler = _SinkHandler(sink)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    loggers += [
        found
        for name, found in logging.Logger.manager.loggerDict.items()
        if isinstance(found, logging.Logger) and found.handlers and name.startswith("torch.")
    ]
    before = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate
            if sink is not None:
                for line in dict.fromkeys(str(warning.message) for warning in caught):
                    sink("debug", line)
