"""Hidden states of an engine of ONNX Runtime: its own network with further outputs, in a session of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..backends.onnxruntime.executor import MANY_TOKENS, OnnxRuntimeExecutor
from ..backends.onnxruntime.session import session_with_outputs
from ..errors import EvaluationError
from ..network.node_names import module_of_node
from ..network.signature import BATCH, CAPACITY, LENGTH
from ..network.signature import LOGITS as NUM_LOGITS
from ..runtime import ModelRunner
from .taps import EMBEDDING, LOGITS, output_names


class OnnxRuntimeTap:
    """See `taps.Tap`.

    Sums of the residual stream are nodes ``transformer.layers.N/Add`` and ``…/Add_2`` in every engine; their operands
    are the outputs of attention and MLP. A tensor that is read cannot vanish inside a fusion, so rounding may differ in
    the last place from the engine's own run.
    """

    def __init__(self, side: ModelRunner):
        executor = side.session.executor
        assert isinstance(executor, OnnxRuntimeExecutor)  # noqa: S101
        self.label = f"{side.name or 'engine'} [{side.backend}]"
        self._executor = executor
        self.num_layers = executor.config.num_hidden_layers
        self.names = output_names(self.num_layers)

    def read(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, torch.Tensor]:
        config, files = self._executor.config, self._executor.network_files
        file = files[-1 if len(tokens) >= MANY_TOKENS else 0]
        session, places = _session_with(file, [name for name in names if name != LOGITS])
        length = len(tokens)
        sizes: dict[int | str, int] = {BATCH: 1, LENGTH: length, NUM_LOGITS: length, CAPACITY: length}
        held = {
            "input_ids": torch.tensor([list(tokens)]),
            "write_indices": torch.zeros(1, dtype=torch.int64),
            "logit_indices": torch.arange(length)[None],
        }
        binding = session.io_binding()
        for spec in self._executor.io:
            name = spec.aliases or spec.name
            shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
            if name not in held:
                held[name] = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
            _bind(binding.bind_input if spec.mode == "input" else binding.bind_output, spec.name, held[name])
        dtype = next(spec.dtype for spec in self._executor.io if spec.name.startswith("past_key"))
        for place in dict.fromkeys(places.values()):
            held[place] = torch.empty(1, length, config.hidden_size, dtype=getattr(torch, dtype))
            _bind(binding.bind_output, place, held[place])
        session.run_with_iobinding(binding)
        return {name: held[places.get(name, LOGITS)][0].float() for name in names}


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    bind(name, "cpu", 0, tensor.numpy().dtype.type, list(tensor.shape), tensor.data_ptr())


def _session_with(file: Path, names: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Return a session whose network also gives what `names` stand for, and name → tensor of the network."""

    def choose(nodes: list[Any]) -> dict[str, str]:
        by_name = {node.name: node for node in nodes}
        return {name: _place(by_name, name, str(file)) for name in names}

    return session_with_outputs(file, choose)


def _place(nodes: dict[str, Any], name: str, where: str) -> str:
    """Return the network's tensor that a name stands for."""
    if name == EMBEDDING:
        total, wanted = "transformer.layers.0/Add", None
    else:
        layer = name.removesuffix(".attention").removesuffix(".mlp")
        total = f"{layer}/Add" if name.endswith(".attention") else f"{layer}/Add_2"
        wanted = name if name != layer else ""
    if total in nodes:
        if wanted == "":
            return str(nodes[total].output[0])
        for operand in nodes[total].input:
            module = module_of_node(operand) or ""
            inside = module.startswith("transformer.layers.0.") if wanted is None else module.startswith(f"{wanted}.")
            if inside != (wanted is None):
                return str(operand)
    raise EvaluationError(
        f"The network has no {name} that can be read.",
        where=where,
        remedy="Build the same checkpoint with --backend torch, or at --opt_level 1, where nothing is fused by us.",
    )
