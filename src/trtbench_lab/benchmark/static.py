"""The static-batch benchmark: a grid of batch sizes and lengths, each run for a number of times and a duration."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RequestError
from ..progress import Phase, ProgressSink, phase
from ..runtime.timing import GenerationTiming
from .memory import MemoryFigures, MemoryTimeline, watch_memory
from .result import MEMORY_OVER_TIME, BenchPoint, BenchResult

if TYPE_CHECKING:
    from ..specs import BenchConfig

NO_END = -1  # no token ends a row, so that every run makes exactly the tokens asked for


class TimedRunner(Protocol):
    """What a runner offers to be measured; engines and the Hugging Face side both do, with one clock.

    Attributes
    ----------
    backend
        Its name, shown with every number.
    limits
        What it takes: ``vocab_size``, ``max_batch_size``, ``max_input_len``, ``max_seq_len``, ``max_beam_width``
        (None for not limited).
    """

    @property
    def backend(self) -> str: ...

    @property
    def limits(self) -> Any: ...

    def generate(self, batch_input_ids: Sequence[Sequence[int]], **options: Any) -> Any:
        """Generate and return a mapping whose ``"timing"`` is a `GenerationTiming`."""


def run_static(
    runner: TimedRunner,
    config: BenchConfig,
    *,
    model: str | None = None,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: ProgressSink | None = None,
) -> BenchResult:
    """Measure every configuration of `config` on `runner`.

    Each configuration first makes `warm_up` runs, in which memory is watched and nothing is timed (one such run is made
    even for ``warm_up=0``, for the sake of the memory figures, after the timed ones). Then runs are timed until there
    are `num_runs` of them AND `duration_s` has passed. Prompts are random tokens of the vocabulary, the same in every
    run of a configuration and the same for every runner with this seed.

    Parameters
    ----------
    runner
        An engine's runner or the Hugging Face side.
    config
        The grid and how long to measure.
    model, name
        Labels of the result.
    facts
        What else is known of the engine, by `BenchResult`'s field names: ``dtype``, ``quantization``,
        ``engine_load_s``, ``build_s``, ``weights_bytes``, ``decode_read_bytes``, ``read_bandwidth_bytes_per_s`` …
    progress
        Told after every run.

    Raises
    ------
    RequestError
        Before anything runs, when a configuration is outside the engine's limits; it names configuration and limit.
    """
    check_limits(runner.limits, config)
    measured = [_measure(runner, config, *cell, progress) for cell in config.cells]
    points = [point for point, _ in measured]
    return BenchResult(
        backend=runner.backend,
        model=model,
        name=name,
        spec=config.to_dict(),
        points=points,
        samples={MEMORY_OVER_TIME: {point.label: vars(timeline) for point, timeline in measured}},
        **dict(facts or {}),
    )


def random_prompts(batch_size: int, input_length: int, *, vocab_size: int, seed: int) -> list[list[int]]:
    """Return token ids drawn evenly from the vocabulary, (batch_size, input_length).

    A seed gives the same prompts on any machine. The first row of a larger batch is that of a smaller one.
    """
    import numpy as np

    rows = []
    for row in range(batch_size):
        generator = np.random.default_rng([seed, row])
        rows.append([int(token) for token in generator.integers(0, vocab_size, size=input_length)])
    return rows


def check_limits(limits: Any, config: BenchConfig) -> None:
    """Raise `RequestError` for the configurations that the engine cannot take, all of them named at once."""
    refused = []
    for batch_size, input_length, output_length in config.cells:
        asked = {
            "max_batch_size": batch_size,
            "max_input_len": input_length,
            "max_seq_len": input_length + output_length,
            "max_beam_width": config.num_beams,
        }
        for limit, value in asked.items():
            allowed = getattr(limits, limit)
            if allowed is not None and value > allowed:
                refused.append((batch_size, input_length, output_length, limit, value, allowed))
    if not refused:
        return
    lines = [
        f"batch size {batch}, input {i}, output {o} needs {limit} {value} and the engine has {allowed}"
        for batch, i, o, limit, value, allowed in refused
    ]
    needed: dict[str, int] = {}
    for *_, limit, value, _allowed in refused:
        needed[limit] = max(value, needed.get(limit, 0))
    raise RequestError(
        "The engine was not built for "
        + ("this configuration: " if len(lines) == 1 else "these configurations: ")
        + "; ".join(lines)
        + ".",
        where="BenchConfig",
        remedy="Leave them out, or build with "
        + ", ".join(f"{limit}={value}" for limit, value in needed.items())
        + ".",
    )


def _measure(
    runner: TimedRunner,
    config: BenchConfig,
    batch_size: int,
    input_length: int,
    output_length: int,
    progress: ProgressSink | None,
) -> tuple[BenchPoint, MemoryTimeline]:
    prompts = random_prompts(batch_size, input_length, vocab_size=runner.limits.vocab_size, seed=config.random_seed)

    def run() -> GenerationTiming:
        return _generate(runner, config, prompts, output_length)

    title = f"benchmark batch {batch_size}, input {input_length}, output {output_length}"
    with phase(title, progress, unit="run") as current:
        device = getattr(runner, "device", None)
        watched: tuple[MemoryFigures, MemoryTimeline] | None = None
        if config.warm_up:
            current.advance(0, "warm-up")
            watched = watch_memory(lambda: [run() for _ in range(config.warm_up)], device)
        token_ns = _timed_runs(run, config, current)
        if watched is None:
            watched = watch_memory(run, device)
    memory, timeline = watched
    point = BenchPoint(
        batch_size=batch_size,
        input_length=input_length,
        output_length=output_length,
        num_beams=config.num_beams,
        warm_up=config.warm_up,
        token_ns=token_ns,
        memory=memory,
    )
    return point, timeline


def _timed_runs(run: Any, config: BenchConfig, current: Phase) -> list[list[int]]:
    """Repeat until both the number of runs and the duration are reached."""
    runs: list[list[int]] = []
    started_s = time.monotonic()
    while len(runs) < config.num_runs or time.monotonic() - started_s < config.duration_s:
        timing = run()
        runs.append([token_ns - timing.started_ns for token_ns in timing.token_ns])
        current.advance(1, f"{timing.latency_ms or 0:.2f} ms")
    return runs


def _generate(
    runner: TimedRunner, config: BenchConfig, prompts: list[list[int]], output_length: int
) -> GenerationTiming:
    output = runner.generate(
        prompts,
        max_new_tokens=output_length,
        end_id=NO_END,
        num_beams=config.num_beams,
        top_k=config.top_k,
        top_p=config.top_p,
        random_seed=config.random_seed,
        return_dict=True,
    )
    timing = output["timing"]
    if len(timing.token_ns) != output_length:
        # A runner that stopped early would be credited with tokens that it never made.
        raise RequestError(
            f"The runner made {len(timing.token_ns)} of {output_length} tokens, so its rate cannot be stated.",
            where=f"backend {runner.backend}",
            remedy="Benchmark without stop words or an end token.",
        )
    return timing
