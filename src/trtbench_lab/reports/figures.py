"""Every figure, and which of them suit a result: pure functions of stored results, nothing is shown or kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..benchmark.planner.result import PlanResult
from ..benchmark.result import BenchResult
from ..benchmark.serving_result import ServingResult
from ..evaluation.compare_result import CompareResult
from ..evaluation.layers_result import LayersResult
from ..evaluation.quality_result import QualityResult
from ..evaluation.streams_result import StreamsResult
from ..evaluation.summarize_result import SummarizeResult
from ..explore.result import ExplorationPair, ExploreResult
from ..results import Result
from ..results.steps import QuantizeStep
from .comparison import comparison_view
from .latency import itl_over_position, latency_distribution
from .layer_errors import layer_error_values, layer_errors
from .layers import (
    engines_by_module,
    figures_of_exploration,
    memory_by_module,
    precision_map,
    roofline,
    time_by_module,
    time_by_type,
)
from .memory import compare_memory, memory
from .memory_timeline import memory_over_time
from .pareto import quality_pareto
from .plan import plan_choices, plan_memory, plan_roofline
from .serving import serving_latency, serving_throughput, serving_timeline
from .shards import shard_balance, shard_treemap
from .sides import compare_speed, rouge_bars, summarize_speed
from .streams import stream_gaps, stream_race
from .throughput import side_by_side, throughput_over_batch
from .throughput_latency import serving_throughput_latency, share_of_limit, throughput_latency
from .tradeoff import QuantizedRun, quantization_tradeoff

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "QuantizedRun",
    "compare_memory",
    "compare_speed",
    "comparison_view",
    "engines_by_module",
    "figures_for",
    "figures_of_exploration",
    "itl_over_position",
    "latency_distribution",
    "layer_error_values",
    "layer_errors",
    "memory",
    "memory_by_module",
    "memory_over_time",
    "plan_choices",
    "plan_memory",
    "plan_roofline",
    "precision_map",
    "quality_pareto",
    "quantization_tradeoff",
    "roofline",
    "rouge_bars",
    "serving_latency",
    "serving_throughput",
    "serving_throughput_latency",
    "serving_timeline",
    "shard_balance",
    "shard_treemap",
    "share_of_limit",
    "side_by_side",
    "stream_gaps",
    "stream_race",
    "summarize_speed",
    "throughput_latency",
    "throughput_over_batch",
    "time_by_module",
    "time_by_type",
]


def figures_for(result: Result, *, theme: str = "auto") -> list[go.Figure]:
    """Return the figures that suit one result; none for a kind that has no figure."""
    if isinstance(result, BenchResult):
        figures = [latency_distribution(result, theme=theme), itl_over_position(result, theme=theme)]
        if len({point.batch_size for point in result.points}) > 1:
            figures.append(throughput_over_batch(result, theme=theme))
        return [*figures, memory(result, theme=theme)]
    if isinstance(result, PlanResult):
        choices = [plan_choices(result, theme=theme)] if result.choices else []
        return [plan_memory(result, theme=theme), plan_roofline(result, theme=theme), *choices]
    if isinstance(result, ServingResult):
        return [
            serving_timeline(result, theme=theme),
            serving_latency(result, metric="request_ttft_ms", theme=theme),
            serving_latency(result, metric="request_itl_ms", theme=theme),
            serving_throughput(result, theme=theme),
        ]
    if isinstance(result, CompareResult):
        return [
            compare_speed(result, theme=theme),
            itl_over_position(result, theme=theme),
            compare_memory(result, theme=theme),
        ]
    if isinstance(result, StreamsResult):
        return [make(result, theme=theme) for make in (stream_race, stream_gaps)]
    if isinstance(result, SummarizeResult):
        return [rouge_bars(result, theme=theme), summarize_speed(result, theme=theme)]
    if isinstance(result, ExploreResult):
        return figures_of_exploration(result, theme=theme)
    if isinstance(result, ExplorationPair):
        return [engines_by_module(result, theme=theme)]
    if isinstance(result, LayersResult):
        return [layer_errors(result, theme=theme)]
    if isinstance(result, QualityResult):
        return [quality_pareto([result], theme=theme), *([layer_errors(result, theme=theme)] if result.layers else [])]
    if isinstance(result, QuantizeStep) and result.layers:
        return [layer_errors(result, theme=theme)]
    return []
