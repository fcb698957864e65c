"""What a benchmark measures, how often, and for how long."""

from __future__ import annotations

from typing import Any

from ..errors import SpecError, did_you_mean
from .coerce import Unfit
from .options import option
from .spec import Spec

SLO_METRICS = ("ttft", "tpot", "itl", "latency")
"""What a service level may be stated for, in milliseconds; ``e2el`` is another name of ``latency``."""


def _batch_sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", ";").split(";") if part.strip()]
    except ValueError:
        raise Unfit(f"must be batch sizes such as '1;8;64', not {text!r}") from None


def _length_pairs(text: str) -> list[tuple[int, int]]:
    pairs = []
    for part in text.split(";"):
        if not part.strip():
            continue
        numbers = part.split(",")
        try:
            input_len, output_len = (int(number) for number in numbers)
        except ValueError:
            raise Unfit(f"must be pairs of input and output length such as '60,20;128,128', not {text!r}") from None
        pairs.append((input_len, output_len))
    return pairs


def _rate(text: str) -> float | None:
    if text.strip().lower() in ("inf", "infinity", "none", "all"):
        return None
    try:
        return float(text)
    except ValueError:
        raise Unfit(f"must be requests a second such as '4.5', or 'inf' for all at once, not {text!r}") from None


def _service_levels(text: str) -> dict[str, float]:
    levels = {}
    for part in text.replace(",", " ").split():
        name, _, value = part.replace("=", ":").partition(":")
        name = {"e2el": "latency", "e2e": "latency"}.get(name, name).removesuffix("_ms")
        try:
            levels[name] = float(value)
        except ValueError:
            raise Unfit(f"must be limits in milliseconds such as 'ttft:500 tpot:50', not {text!r}") from None
    return levels


class BenchConfig(Spec):
    """Static: a grid of batch sizes and lengths, each measured until `num_runs` and `duration_s` are reached.

    Serving: `num_requests` requests, of the lengths in turn or of a dataset, that arrive at `request_rate`.
    """

    mode: str = option(
        default="static",
        help="static: a fixed batch at a time; serving: requests that arrive at a rate.",
        choices=("static", "serving"),
        synonyms={
            "throughput": "serving",
            **dict.fromkeys(("latency", "plugin", "ootb", "ootb-except-mha"), "static"),
        },
        remarks=dict.fromkeys(
            ("plugin", "ootb", "ootb-except-mha"),
            "Plugins are chosen when the engine is built; the static benchmark runs the engine as it is.",
        ),
        group="benchmark",
    )
    batch_size: tuple[int, ...] = option(
        default=(8,),
        help="Batch sizes, separated by semicolons.",
        parse=_batch_sizes,
        nonempty=True,
        render=lambda value: ";".join(str(size) for size in value),
        minimum=1,
        unit="sequences",
        metavar='"1;8;64"',
        group="benchmark",
    )
    input_output_len: tuple[tuple[int, int], ...] = option(
        default=((128, 20),),
        help="Pairs of prompt and output length, separated by semicolons.",
        parse=_length_pairs,
        nonempty=True,
        render=lambda value: ";".join(f"{input_len},{output_len}" for input_len, output_len in value),
        unit="tokens",
        metavar='"60,20;128,128"',
        group="benchmark",
    )
    num_runs: int = option(
        default=10, help="Least number of measured runs.", minimum=1, flags=("--iterations",), group="benchmark"
    )
    duration_s: float = option(
        default=60.0,
        help="Least time of measured runs of one configuration.",
        minimum=0,
        unit="s",
        flag="--duration",
        group="benchmark",
    )
    warm_up: int = option(
        default=2, help="Runs before measuring begins.", minimum=0, flags=("--warmup",), group="benchmark"
    )
    num_beams: int = option(
        default=1, help="Beams; 1 means none.", minimum=1, flags=("--beam_width",), group="benchmark"
    )
    top_k: int = option(default=1, help="As for generation; 1 is greedy.", minimum=0, group="benchmark")
    top_p: float = option(default=0.0, help="As for generation; 0 means off.", minimum=0, maximum=1, group="benchmark")
    random_seed: int = option(
        default=0, help="Seed of the random prompts.", minimum=0, flags=("--seed",), group="benchmark"
    )
    request_rate: float | None = option(
        default=None,
        help="Serving: requests a second, at random moments (Poisson); none or inf means all at once.",
        minimum=0.001,
        parse=_rate,
        unit="1/s",
        metavar="RATE",
        group="serving",
    )
    num_requests: int | None = option(
        default=None,
        help="Serving: requests; none means the whole dataset, or 100.",
        minimum=1,
        flags=("--num_prompts",),
        unit="requests",
        group="serving",
    )
    concurrency: int | None = option(
        default=None,
        help="Serving: most requests on their way at a time; none means no bound.",
        minimum=1,
        flags=("--max_concurrency",),
        unit="requests",
        group="serving",
    )
    dataset: str | None = option(
        default=None,
        help="Serving: file of requests, one JSON object a line (prompt or input_ids, output_tokens) as trtllm-bench "
        "takes it, or the JSON that prepare_dataset.py writes; none means random tokens of the lengths asked for.",
        flags=("--dataset_path",),
        metavar="FILE",
        group="serving",
    )
    goodput: dict[str, Any] = option(
        factory=dict,
        help="Serving: the service level, in ms: ttft, tpot, itl (the request's largest gap) and latency.",
        parse=_service_levels,
        render=lambda value: " ".join(f"{name}:{limit!r}" for name, limit in value.items()),
        nargs="+",
        flags=("--slo",),
        metavar="'ttft:500 tpot:50'",
        group="serving",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for input_len, output_len in self.input_output_len:
            if input_len < 1 or output_len < 1:
                raise SpecError(
                    f"The pair {input_len},{output_len} has a length below 1.",
                    where="BenchConfig.input_output_len",
                    remedy="Prompt and output have at least one token each.",
                )

        for name, limit in self.goodput.items():
            if name not in SLO_METRICS:
                raise SpecError(
                    f"There is no service level for {name!r}.",
                    where="BenchConfig.goodput",
                    remedy=did_you_mean(name, list(SLO_METRICS)),
                )
            if isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0:
                raise SpecError(
                    f"The service level {name}:{limit} is no time above 0.",
                    where="BenchConfig.goodput",
                    remedy="State milliseconds, for example ttft:500.",
                )

    @property
    def cells(self) -> list[tuple[int, int, int]]:
        """Every configuration as (batch size, input length, output length), lengths outermost."""
        return [(batch, *pair) for pair in self.input_output_len for batch in self.batch_size]
