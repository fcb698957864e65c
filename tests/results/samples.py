"""A small kind of result, and one made of hand-chosen numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trtbench_lab.results import Result

SCHOOLS = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    title: str
    marks: list[float]
    pair: tuple[int, float] = (0, 0.0)
    mood: Literal["good", "bad"] = "good"


@dataclass(frozen=True, kw_only=True)
class SchoolResult(Result):
    kind: ClassVar[str] = "school"
    schema_version: ClassVar[int] = 3

    lessons: list[Lesson] = field(default_factory=list)
    best: Lesson | None = None
    latency_ms: float | None = None
    tokens_per_sec: float | None = None
    count: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, int | float | None]:
        return {"latency_ms_mean": self.latency_ms, "tokens_per_sec": self.tokens_per_sec, "count": self.count}


def school(**changes: Any) -> SchoolResult:
    values: dict[str, Any] = {
        "backend": "onnxruntime",
        "model": "gpt2",
        "name": "morning",
        "lessons": [Lesson(title="<b>maths</b>", marks=[1.0, 2.5], pair=(3, 0.5), mood="bad")],
        "latency_ms": 40.0,
        "tokens_per_sec": 500.0,
        "count": 7,
    }
    return SchoolResult(**{**values, **changes})
