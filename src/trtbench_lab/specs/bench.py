"""What a benchmark measures, how often, and for how long."""

from __future__ import annotations

from ..errors import SpecError
from .coerce import Unfit
from .options import option
from .spec import Spec

_SERVING = "The serving benchmark is not available in this version; available: --mode static, a fixed batch at a time."


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


class BenchConfig(Spec):
    """A grid of batch sizes and lengths, each measured until both `num_runs` and `duration_s` are reached."""

    mode: str = option(
        default="static",
        help="static: a fixed batch at a time; serving: requests that arrive at a rate.",
        choices=("static",),
        later={"serving": _SERVING, "throughput": _SERVING},
        synonyms={"latency": "static", "plugin": "static", "ootb": "static", "ootb-except-mha": "static"},
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
        help="Requests a second, for the serving benchmark.",
        minimum=0,
        unit="1/s",
        command_line=False,
        group="benchmark",
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

    @property
    def cells(self) -> list[tuple[int, int, int]]:
        """Every configuration as (batch size, input length, output length), lengths outermost."""
        return [(batch, *pair) for pair in self.input_output_len for batch in self.batch_size]
