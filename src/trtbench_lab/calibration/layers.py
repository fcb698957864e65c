"""Run calibration tokens through a model one layer at a time: in memory are one layer and the tokens' hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..checkpoint.layout import WholeTensor, whole_tensors
from ..network.decoder import Decoder
from ..network.loading import assign_tensors
from ..quantization.inputs import LayerInputs
from ..specs import Mapping, ModelConfig, QuantConfig

ReadWhole = Callable[[WholeTensor], torch.Tensor]
BATCH_TOKENS = 2048
"""Tokens run at a time: enough for full matrix products, few enough for the attention scores to stay small."""
_READERS = 4
"""Threads that read the next layer while a GPU is busy with one; a layer's bytes are in three or four matrices."""


@dataclass(frozen=True)
class CalibratedLayer:
    """One decoder layer, its float32 weights, and what its linear layers saw.

    Attributes
    ----------
    number
        In the whole model; None for the head.
    weights
        Name in the checkpoint → float32 tensor, as the source has it, where the layers run.
    inputs
        Module name → statistics; `mlp.fc` and `mlp.gate` share theirs.
    key_largest, value_largest
        Largest |k| (after rotation) and |v|; 0 for the head.
    """

    number: int | None
    weights: dict[str, torch.Tensor]
    inputs: dict[str, LayerInputs]
    key_largest: float = 0.0
    value_largest: float = 0.0


def calibrated_layers(
    config: ModelConfig,
    read: ReadWhole,
    token_ids: torch.Tensor,
    *,
    with_gram: bool = False,
    with_head: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[CalibratedLayer]:
    """Yield the layers in order; each sees the float32 outputs of the one before it.

    Parameters
    ----------
    config
        The unquantized model.
    read
        Reads a whole tensor of it.
    token_ids
        (size, length) int64.
    with_gram
        Gather Gram matrices.
    with_head
        Yield `lm_head` at the end, with number None.
    device
        Where the layers run, the hidden states of all tokens lie and statistics are gathered.
    """
    plain = config.replace(quantization=QuantConfig(), mapping=Mapping(), dtype="float32")
    tensors = {tensor.name: tensor for tensor in whole_tensors(plain)}
    size, length = token_ids.shape
    with torch.device("meta"):  # the middle stage of three: one layer, hidden states in and out
        decoder = Decoder(plain.replace(num_hidden_layers=3), Mapping(pp_size=3, rank=1), max_positions=length)
    assign_tensors(decoder, {name: table.to(device) for name, table in decoder_tables(decoder).items()})
    rows = max(1, BATCH_TOKENS // length)
    with torch.inference_mode():
        hidden = _embedded(plain, tensors, read, token_ids).to(device)
        prefixes = [f"transformer.layers.{number}." for number in range(plain.num_hidden_layers)]
        held = [[tensor for name, tensor in tensors.items() if name.startswith(prefix)] for prefix in prefixes]
        ahead = torch.device(device).type != "cpu"
        for number, given in enumerate(layers_read(held, read, ahead=ahead)):
            prefix = prefixes[number]
            weights = {name: tensor.to(device).float() for name, tensor in given.items()}
            assign_tensors(decoder, {name.replace(f".{number}.", ".0.", 1): w for name, w in weights.items()})
            inputs = _collectors(plain, prefix, size * length, with_gram, device)
            layer = decoder.transformer.layers[0]
            hooks = [
                layer.get_submodule(name.removeprefix(prefix)).register_forward_pre_hook(
                    lambda _, given, found=collector: found.add(given[0])
                )
                for name, collector in inputs.items()
                if not name.endswith("mlp.gate")  # reads what mlp.fc reads
            ]
            try:
                largest = _run_layer(decoder, hidden, rows, device)
            finally:
                for hook in hooks:
                    hook.remove()
            yield CalibratedLayer(number, weights, inputs, *largest)
        if with_head:
            yield _head(plain, tensors, read, hidden, with_gram, device)


def layers_read(
    layers: Sequence[Sequence[WholeTensor]], read: ReadWhole, *, ahead: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each layer by name; with `ahead`, threads read the next layer meanwhile.

    A CPU that runs the layers has no core to spare, and its memory holds one layer and not two.
    """
    if not ahead:
        for layer in layers:
            yield {tensor.name: read(tensor) for tensor in layer}
        return
    with ThreadPoolExecutor(_READERS, thread_name_prefix="calibration") as pool:

        def begun(number: int) -> dict[str, Future[torch.Tensor]]:
            return {tensor.name: pool.submit(read, tensor) for tensor in layers[number]} if number < len(layers) else {}

        coming = begun(0)
        for number in range(len(layers)):
            ready = {name: future.result() for name, future in coming.items()}
            coming = begun(number + 1)
            yield ready


def decoder_tables(decoder: Decoder) -> dict[str, torch.Tensor]:
    """Return the computed tables of a decoder made on the meta device."""
    with torch.device("cpu"):
        return decoder.rotary_tables()


def _embedded(
    config: ModelConfig, tensors: dict[str, WholeTensor], read: ReadWhole, token_ids: torch.Tensor
) -> torch.Tensor:
    """(size, length, hidden) float32, on the CPU."""
    table = read(tensors["transformer.vocab_embedding.weight"])
    hidden = F.embedding(token_ids, table).float()
    if config.position_embedding_type == "learned_absolute":
        positions = read(tensors["transformer.position_embedding.weight"])
        hidden = hidden + positions[: token_ids.shape[1]].float()
    return hidden


def _collectors(
    config: ModelConfig, prefix: str, num_tokens: int, with_gram: bool, device: torch.device | str
) -> dict[str, LayerInputs]:
    widths = {
        "attention.qkv": config.hidden_size,
        "attention.dense": config.attention_width,
        "mlp.fc": config.hidden_size,
        "mlp.proj": config.mlp_width,
    }
    found = {
        f"{prefix}{module}": LayerInputs(
            width, f"{prefix}{module}", num_tokens=num_tokens, with_gram=with_gram, device=device
        )
        for module, width in widths.items()
    }
    if config.gated_mlp:
        found[f"{prefix}mlp.gate"] = found[f"{prefix}mlp.fc"]
    return found


def _run_layer(decoder: Decoder, hidden: torch.Tensor, rows: int, device: torch.device | str) -> tuple[float, float]:
    """Replace `hidden` by the layer's output; return the largest key and value."""
    config, length = decoder.config, hidden.shape[1]
    key_largest = value_largest = 0.0
    for start in range(0, len(hidden), rows):
        x = hidden[start : start + rows]
        shape = (len(x), config.kv_heads, length, config.head_width)
        caches = [torch.zeros(shape, device=device), torch.zeros(shape, device=device)]
        x, (key, value) = decoder(x, torch.zeros(len(x), dtype=torch.int64, device=device), None, caches)
        key_largest = max(key_largest, float(key.abs().amax()))
        value_largest = max(value_largest, float(value.abs().amax()))
        hidden[start : start + rows] = x
    return key_largest, value_largest


def _head(
    config: ModelConfig,
    tensors: dict[str, WholeTensor],
    read: ReadWhole,
    hidden: torch.Tensor,
    with_gram: bool,
    device: torch.device | str,
) -> CalibratedLayer:
    """`lm_head` with the inputs that the final norm gives it."""
    with torch.device("meta"):
        norm = Decoder(config.replace(num_hidden_layers=2), Mapping(pp_size=2, rank=1), num_layers=0).transformer.ln_f
    name = "transformer.ln_f."
    norms = {key.removeprefix(name): read(tensor).float() for key, tensor in tensors.items() if key.startswith(name)}
    assign_tensors(norm, {kind: tensor.to(device) for kind, tensor in norms.items()})
    num_tokens = hidden.shape[0] * hidden.shape[1]
    inputs = LayerInputs(config.hidden_size, "lm_head", num_tokens=num_tokens, with_gram=with_gram, device=device)
    for row in hidden:
        inputs.add(norm(row))
    source = tensors.get("lm_head.weight", tensors["transformer.vocab_embedding.weight"])
    return CalibratedLayer(None, {"lm_head.weight": read(source).float().to(device)}, {"lm_head": inputs})
