"""The torch backend's engine file: safetensors in the layout that the kernels of one kind of device read fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...checkpoint.rank_file import RankFile
from ...checkpoint.safetensors_file import SafetensorsFile, read_metadata
from ...errors import EngineError
from ...file_digest import digest_by_chunk, refuse_changed
from ...network.communicator import Communicator
from ...network.decoder import Decoder
from ...network.initializers import Released, Weights, tensor_of
from ...network.linear import Linear
from ...network.loading import assign_tensors, kept_types
from ...network.mlp import Mlp
from ...network.signature import PagedForm
from ...specs import ModelConfig, PluginConfig

FORMAT = "trtbench-torch-engine-1"
IN_OUT, OUT_IN = "in_out", "out_in"


@dataclass(frozen=True)
class EngineLayout:
    """How an engine file holds its weights.

    Attributes
    ----------
    linear
        ``"in_out"``: dense linear weights lie transposed, (in, out), which a CPU's float32 matrix-vector product reads
        at 24 GB/s instead of 15 on two cores. ``"out_in"``: as in the checkpoint, which GPU libraries take either way;
        a CPU's 16-bit products of few rows take 30 to 50 times as long over transposed weights.
    dtype
        Type of the computation and of every weight that is not packed.
    max_positions
        Positions that the rotary tables reach.
    """

    linear: str
    dtype: str
    max_positions: int

    def to_metadata(self) -> dict[str, str]:
        return {
            "trtbench_format": FORMAT,
            "linear": self.linear,
            "dtype": self.dtype,
            "max_positions": str(self.max_positions),
        }


def layout_of(path: Path) -> EngineLayout:
    """Read the layout of an engine file.

    Raises
    ------
    EngineError
        When the file is damaged or is no engine of this format.
    """
    found = read_metadata(path, error=EngineError)
    dtype, linear, positions = found.get("dtype"), found.get("linear"), found.get("max_positions", "")
    if (
        found.get("trtbench_format") != FORMAT
        or dtype not in ("float32", "float16", "bfloat16")
        or linear not in (IN_OUT, OUT_IN)
        or not positions.isdigit()
    ):
        raise EngineError(
            "The file is no engine of the torch backend of this version.",
            where=str(path),
            remedy="Build the engine again.",
        )
    return EngineLayout(linear, dtype, int(positions))


def engine_decoder(
    config: ModelConfig,
    layout: EngineLayout,
    communicator: Communicator | None = None,
    plugins: PluginConfig | None = None,
    form: PagedForm | None = None,
) -> Decoder:
    """Return the decoder, on the meta device, whose tensors the engine file holds; paged where a `form` is given.

    On a CPU a tied head gets a weight of its own: the embedding is read by row, the head's product wants columns.
    """
    if layout.linear == IN_OUT and config.share_embedding_table:
        config = config.replace(share_embedding_table=False)
    with torch.device("meta"):
        if form is not None:
            from ...network.paged import PagedDecoder

            return PagedDecoder(
                config, config.mapping, max_positions=layout.max_positions, communicator=communicator, form=form
            )
        return Decoder(
            config,
            config.mapping,
            max_positions=layout.max_positions,
            communicator=communicator,
            plugin_config=plugins,
        )


def write_engine_file(
    path: Path,
    config: ModelConfig,
    weights: Weights,
    layout: EngineLayout,
    each: Callable[[], None],
    form: PagedForm | None = None,
) -> None:
    """Write the engine of one rank, a tensor at a time.

    Parameters
    ----------
    path
        The new file.
    config
        The model with the rank's mapping.
    weights
        The rank's tensors by checkpoint name.
    layout
        How to lay them out.
    each
        Called before each tensor; may raise to stop.
    form
        How the cache is paged; a quantized one has a scale in each layer.
    """
    decoder = engine_decoder(config, layout, form=form)
    transposed = _transposed(decoder, layout)
    kept, tensors = kept_types(decoder), {}
    for name, parameter in decoder.named_parameters():
        shape = tuple(parameter.shape)
        dtype = str(kept[name]).removeprefix("torch.") if name in kept else layout.dtype
        tensors[name] = (shape[::-1] if name in transposed else shape, dtype)
    pages = Released(weights)
    with RankFile(path, tensors, layout.to_metadata()) as file:
        for name, parameter in decoder.named_parameters():
            each()
            source = name
            if name == "lm_head.weight" and config.share_embedding_table:
                source = "transformer.vocab_embedding.weight"
            tensor = tensor_of(pages, source, tuple(parameter.shape))
            file.write(name, tensor.t().contiguous() if name in transposed else tensor)
            pages.release()
        file.finish()


def load_decoder(
    path: Path, device: torch.device, decoder: Decoder, layout: EngineLayout, digest: str | None = None
) -> int:
    """Give `decoder` the weights of an engine file and its tables; on a CPU they stay in the file's pages.

    With `digest` the file's content is held against it: on a GPU as it is read, on a CPU before.

    Returns
    -------
    Bytes of weights.
    """
    transposed = _transposed(decoder, layout)
    file = SafetensorsFile(path, error=EngineError)
    expected = {name for name, _ in decoder.named_parameters()}
    if set(file) != expected:
        odd = sorted(set(file) ^ expected)[0]
        raise EngineError(
            f"The engine's tensors are not those of its model (the first to differ: {odd}).",
            where=str(path),
            remedy="Build the engine again.",
        )
    total = 0
    sent: Mapping[str, torch.Tensor] = {}
    if device.type == "cuda":
        from .gpu.transfer import tensors_on_gpu

        sent = tensors_on_gpu(path, file, device, digest, _pairs(decoder))
    elif digest is not None:
        refuse_changed(path, digest_by_chunk(path), digest)
    for name in file:
        tensor = sent[name] if name in sent else file.tensor(name)
        total += tensor.nbytes
        assign_tensors(decoder, {name: tensor.t() if name in transposed else tensor})
    dtype, kept = getattr(torch, layout.dtype), kept_types(decoder)
    for name, table in decoder.rotary_tables().items():
        assign_tensors(decoder, {name: table.to(device, kept.get(name, dtype))})
    return total


def _pairs(decoder: Decoder) -> dict[str, str]:
    """Weights of gated MLPs, which the fused steps multiply as one matrix: the activated half first."""
    gated = [name for name, module in decoder.named_modules() if isinstance(module, Mlp) and module.gated]
    return {f"{name}.fc.weight": f"{name}.gate.weight" for name in gated}


def _transposed(decoder: Decoder, layout: EngineLayout) -> set[str]:
    if layout.linear == OUT_IN:
        return set()
    return {
        f"{name}.weight"
        for name, module in decoder.named_modules()
        if isinstance(module, Linear) and module.kind is None
    }
