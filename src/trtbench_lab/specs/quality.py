"""How a model is held against its float baseline: measures, text, and what it may lose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError, did_you_mean
from .coerce import Unfit
from .options import option
from .spec import Spec

TOKEN_MEASURES = ("perplexity", "top1", "kl")
SUMMARY_MEASURES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "entities")
MEASURES = (*TOKEN_MEASURES, *SUMMARY_MEASURES)
"""Measures of quality that a limit can be set on."""
METRIC_WORDS = ("perplexity", "top1", "kl", "rouge", "entities", "speed", "all")


@dataclass(frozen=True)
class MaxDrop:
    """How much worse a measure may be than the baseline's.

    Attributes
    ----------
    metric
        One of `MEASURES`.
    amount
        In the measure's own unit (points of ROUGE or per cent of agreement, nats), or in per cent of the baseline.
    is_relative
        Whether it is in per cent of the baseline.
    """

    metric: str
    amount: float
    is_relative: bool


def limit_from(metric: str, text: Any) -> MaxDrop:
    """Read one limit.

    Raises
    ------
    SpecError
        For an unknown measure, or an amount that is no number from 0 on, with or without ``%``.
    """
    if metric not in MEASURES:
        raise SpecError(
            f"There is no measure {metric!r} to set a limit on.",
            where="max_drop",
            remedy=did_you_mean(metric, list(MEASURES)),
        )
    words = str(text).strip()
    is_relative = words.endswith("%")
    try:
        amount = float(words.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if isinstance(text, bool) or not math.isfinite(amount) or amount < 0:
        raise SpecError(
            f"The limit {metric}={words} is no amount from 0 on.",
            where="max_drop",
            remedy=f"Write {metric}=1% (of the baseline) or {metric}=0.5 (in its own unit).",
        )
    if is_relative and metric == "kl":
        raise SpecError(
            "A limit on kl cannot be in per cent: the baseline's divergence from itself is 0.",
            where="max_drop",
            remedy="Give it in nats, for example kl=0.02.",
        )
    return MaxDrop(metric, amount, is_relative)


def max_drop_from_text(text: str) -> dict[str, str]:
    """Read ``perplexity=1% rouge1=0.5``, separated by spaces, commas or semicolons."""
    found: dict[str, str] = {}
    for word in text.replace(",", " ").replace(";", " ").split():
        name, equals, amount = word.partition("=")
        if not equals:
            name, equals, amount = word.partition(":")
        if not equals:
            raise Unfit(f"must be a measure and an amount such as perplexity=1%, not {word!r}")
        found[name] = amount
    return found


def max_drop_option(measures: str) -> Any:
    return option(
        factory=dict,
        help=f"Most that the model may lose against its baseline: {measures}, each in its own unit or in % of the "
        "baseline. The verdict says passed, failed, or not shown; only passed ends with exit code 0.",
        parse=max_drop_from_text,
        render=lambda value: " ".join(f"{name}={amount}" for name, amount in value.items()),
        nargs="+",
        flags=("--max_loss",),
        metavar="'perplexity=1% rouge1=0.5'",
        group="quality",
        effect="perplexity, kl, top1 look at every token of held-out text; rouge and entities at summaries.",
    )


class QualityConfig(Spec):
    """What is measured of a model against its float baseline."""

    metrics: tuple[str, ...] = option(
        default=(),
        help="Quality against the baseline: perplexity, top1 (agreement), kl (divergence of the next token), rouge, "
        "entities, speed, or all.",
        choices=METRIC_WORDS,
        parse=lambda text: [word for word in text.replace(",", " ").split() if word],
        render=",".join,
        nargs="+",
        metavar="NAME",
        group="quality",
    )
    max_drop: dict[str, Any] = max_drop_option("perplexity, top1, kl, rouge1, rouge2, rougeL, rougeLsum, entities")
    baseline: str | None = option(
        default=None,
        help="Folder of the baseline: an engine, a checkpoint or a Hugging Face model; none means the Hugging Face "
        "model that it all came from.",
        metavar="DIR",
        group="quality",
    )
    eval_dataset: str = option(
        default="demo",
        help="Held-out text for perplexity, top1 and kl: 'demo' for the demo corpus' test split, or a file or folder "
        "as for calibration.",
        metavar="PATH",
        group="quality",
    )
    eval_tokens: int = option(
        default=16384, help="Tokens of it that are scored.", minimum=2, unit="tokens", group="quality"
    )
    eval_window: int = option(
        default=512, help="Most tokens read at once.", minimum=2, unit="tokens", group="quality"
    )
    eval_articles: int = option(
        default=20,
        help="Articles that are summarised for rouge and entities, from the demo corpus or, where it has the "
        "cnn_dailymail schema, from eval_dataset.",
        minimum=1,
        unit="articles",
        group="quality",
    )
    eval_resamples: int = option(
        default=1000, help="Bootstrap resamples behind each interval.", minimum=100, group="quality"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limits  # noqa: B018 - reads every limit, so that a wrong one is told here

    @property
    def limits(self) -> tuple[MaxDrop, ...]:
        """The limits of `max_drop`."""
        return tuple(limit_from(name, amount) for name, amount in self.max_drop.items())

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures to take: those asked for, and those that a limit is set on."""
        words = set(self.metrics)
        if "all" in words:
            return MEASURES
        wanted = {name for name in MEASURES if name in words or name in self.max_drop}
        if "rouge" in words:
            wanted |= {name for name in MEASURES if name.startswith("rouge")}
        return tuple(name for name in MEASURES if name in wanted)

    @property
    def with_speed(self) -> bool:
        """Whether both sides are timed."""
        return bool({"speed", "all"} & set(self.metrics))

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.metrics or self.max_drop)
