"""Which of the backend's uses of TensorRT the tests of this session have gone through (see `calls`)."""

from __future__ import annotations

from .recorder import Recorder

HITS: set[tuple[str, int, str]] = set()


def remember(recorder: Recorder) -> None:
    """Keep what a recorder has seen."""
    HITS.update(recorder.hits)
