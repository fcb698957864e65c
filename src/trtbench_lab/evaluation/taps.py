"""Read hidden states out of the sides of a comparison while they run: Hugging Face, our own modules, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ..errors import EvaluationError
from ..network.decoder import Hidden
from ..runtime import HFRunner, ModelRunner

EMBEDDING, LOGITS = "embedding", "logits"
PARTS = ("attention", "mlp")
_HF_LAYERS = ("model.layers", "transformer.h", "model.decoder.layers", "gpt_neox.layers", "transformer.layers")
_HF_PARTS = {"attention": ("self_attn", "attn", "self_attention", "attention"), "mlp": ("mlp", "feed_forward")}


class Tap(Protocol):
    """A side whose hidden states can be read.

    Attributes
    ----------
    label
        Name and backend.
    num_layers
        Decoder layers.
    names
        What can be read, in the order of the network: ``"embedding"`` (the input of layer 0),
        ``"transformer.layers.0.attention"``, ``"….mlp"`` (before they are added), ``"transformer.layers.0"`` (the
        layer's output), ``"logits"``.
    """

    label: str
    num_layers: int
    names: tuple[str, ...]

    def read(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Run once over a sequence; return each of `names` as (tokens, width) float32 on the CPU."""


def output_names(num_layers: int, *, parts: bool = True) -> tuple[str, ...]:
    """Return every name in the order of the network."""
    names = [EMBEDDING]
    for number in range(num_layers):
        layer = f"transformer.layers.{number}"
        names += [*(f"{layer}.{part}" for part in PARTS if parts), layer]
    return (*names, LOGITS)


def tap_of(side: ModelRunner | HFRunner) -> Tap:
    """Return the tap of a side.

    Raises
    ------
    EvaluationError
        When its hidden states cannot be read.
    """
    if isinstance(side, HFRunner):
        return HFTap(side)
    executor = side.session.executor
    if hasattr(executor, "modules"):
        return ModulesTap(side)
    if executor.backend == "onnxruntime":
        from .onnxruntime_tap import OnnxRuntimeTap

        return OnnxRuntimeTap(side)
    raise EvaluationError(
        f"The hidden states of an engine of the backend {side.backend} cannot be read.",
        where=side.name,
        remedy="Build the same checkpoint with --backend torch or onnxruntime, or compare the checkpoint itself.",
    )


class HooksTap:
    """A tap by hooks on modules of PyTorch.

    Parameters
    ----------
    side
        The runner.
    layers
        Its decoder layers.
    part_of
        Finds ``"attention"`` or ``"mlp"`` in a layer; None where there is no such module.
    """

    def __init__(
        self,
        side: ModelRunner | HFRunner,
        layers: Sequence[torch.nn.Module],
        part_of: Callable[[torch.nn.Module, str], torch.nn.Module | None],
    ):
        self._side, self._layers, self._part_of = side, layers, part_of
        self.label = f"{side.name or 'model'} [{side.backend}]"
        self.num_layers = len(layers)
        has_parts = bool(layers) and all(part_of(layers[0], part) is not None for part in PARTS)
        self.names = output_names(self.num_layers, parts=has_parts)

    def read(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, torch.Tensor]:
        found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        with self._hooks(found):
            logits = self._side.logits_of([list(tokens)], [0])[0]
        if LOGITS in found:
            found[LOGITS] = [logits]
        return {name: torch.cat(pieces) for name, pieces in found.items()}

    @contextmanager
    def _hooks(self, found: dict[str, list[torch.Tensor]]) -> Iterator[None]:
        handles = []
        try:
            for name, kept in found.items():
                if name == EMBEDDING:
                    hook = self._layers[0].register_forward_pre_hook(_input_keeper(kept), with_kwargs=True)
                elif name != LOGITS:
                    hook = self._module(name).register_forward_hook(_output_keeper(kept))
                else:
                    continue
                handles.append(hook)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, name: str) -> torch.nn.Module:
        number, _, part = name.removeprefix("transformer.layers.").partition(".")
        layer = self._layers[int(number)]
        found = self._part_of(layer, part) if part else layer
        if found is None:
            raise EvaluationError(f"There is no {name} here.", where=self.label, remedy="Compare whole layers.")
        return found


class HFTap(HooksTap):
    """Hugging Face's own model."""

    def __init__(self, side: HFRunner):
        layers = next((found for path in _HF_LAYERS if (found := _submodule(side.model, path)) is not None), None)
        if not isinstance(layers, torch.nn.ModuleList):
            raise EvaluationError(
                "The decoder layers of this Hugging Face model were not found.",
                where=side.name,
                remedy="Compare with a checkpoint instead: --baseline CHECKPOINT.",
            )
        super().__init__(side, list(layers), _hf_part)


class ModulesTap(HooksTap):
    """Our own decoder: engines of the torch backend, and checkpoints by definition."""

    def __init__(self, side: ModelRunner):
        decoder = side.session.executor.modules()  # type: ignore[attr-defined]
        super().__init__(side, list(decoder.transformer.layers), lambda layer, part: getattr(layer, part, None))


def _hf_part(layer: torch.nn.Module, part: str) -> torch.nn.Module | None:
    return next((getattr(layer, name) for name in _HF_PARTS[part] if hasattr(layer, name)), None)


def _submodule(model: torch.nn.Module, path: str) -> torch.nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _plain(value: Any) -> torch.Tensor:
    """(tokens, width) float32 on the CPU, of whatever a module takes or gives for hidden states."""
    value = value[0] if isinstance(value, tuple) else value
    value = value.summed() if isinstance(value, Hidden) else value
    return value.detach().flatten(0, -2).float().cpu()


def _input_keeper(kept: list[torch.Tensor]) -> Callable[..., None]:
    return lambda module, args, kwargs: kept.append(_plain(args[0] if args else kwargs["hidden_states"]))


def _output_keeper(kept: list[torch.Tensor]) -> Callable[..., None]:
    return lambda module, args, output: kept.append(_plain(output))
