"""The network that one plan is parsed from: exported, fixed to a cache capacity, checked, its weights by reference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from ...checkpoint import open_checkpoint
from ...network.export import ExportedNetwork, export_network
from ...network.export_log import LogSink
from ...network.onnx_lint import require_parseable
from ...network.referenced import ReferencedNetwork
from ...network.signature import CAPACITY, TensorSpec
from ...specs import BuildConfig, ModelConfig
from .plans import network_variant

SCRATCH_NAME = ".weights-in-other-types"
"""File in the output folder for weights that are not stored as the network wants them; gone when they are read."""


def network_of(
    config: ModelConfig, options: BuildConfig, log: LogSink | None = None, *, splits: int = 0
) -> ExportedNetwork:
    """Export the network of one rank; the capacity of a padded cache is still open.

    Parameters
    ----------
    config
        The model, with the rank's mapping.
    options
        The resolved build configuration.
    log
        Takes the exporter's lines.
    splits
        Of a paged network for decode steps, see `network.signature.PagedForm`.
    """
    return export_network(
        config,
        max_positions=options.resolved_max_seq_len(config),
        dtype=getattr(torch, options.compute_dtype),
        plugin_config=options.plugin_config,
        splits=splits,
        log=log,
    )


def with_capacity(network: ExportedNetwork, capacity: int | None) -> ExportedNetwork:
    """Return a copy whose caches have a constant length, as TensorRT's cache update demands; None changes nothing."""
    copy = network.copy()
    if capacity is None:
        return copy
    io = tuple(_fixed(spec, capacity) for spec in copy.io)
    shapes = {spec.name: spec.shape for spec in io}
    for value in [*copy.model.graph.inputs, *copy.model.graph.outputs]:
        value.shape = ir.Shape(shapes[value.name or ""])
    return ExportedNetwork(copy.model, copy.initializers, io, copy.quantized)


def _fixed(spec: TensorSpec, capacity: int) -> TensorSpec:
    return replace(spec, shape=tuple(capacity if size == CAPACITY else size for size in spec.shape))


def checked(model: bytes) -> None:
    """Hold a network against the parser's rules before TensorRT sees it.

    Raises
    ------
    BuildError
        That lists what TensorRT would refuse or misread.
    """
    require_parseable(onnx.ModelProto.FromString(model))


@dataclass(frozen=True)
class RefitSource:
    """What a plan without weights is refitted from.

    Attributes
    ----------
    proto
        The ONNX model without its large weights.
    """

    proto: bytes
    _network: ReferencedNetwork

    def initializers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give each weight by name; where they lie is valid as long as this object is."""
        for name, content in self._network.items():
            yield name, content.tensor


def refit_source(checkpoint_dir: Path, rank: int, options: BuildConfig, file: str) -> RefitSource:
    """Return the weights of the stripped plan `file`, as its build was given them."""
    checkpoint = open_checkpoint(checkpoint_dir)
    config = checkpoint.config.replace(mapping=checkpoint.config.mapping.with_rank(rank))
    capacity, splits = network_variant(options, config, rank, file)
    network = with_capacity(network_of(config, options, splits=splits), capacity)
    with tempfile.NamedTemporaryFile(prefix="trtbench-refit-", delete=False) as scratch:
        path = Path(scratch.name)
    referenced = ReferencedNetwork(network, checkpoint.rank(rank), path)
    path.unlink(missing_ok=True)  # what is mapped stays readable
    return RefitSource(referenced.model_bytes(), referenced)
