"""What a family of models declares: how its configuration reads, and which source tensors make which target tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import IntakeError
from .hf_config import HfConfig

if TYPE_CHECKING:
    import torch

    from ..specs import Mapping as RankMapping
    from ..specs import ModelConfig, QuantConfig

BLOCK = "transformer.layers.{layer}"

STORAGE_DTYPES = ("float32", "float16", "bfloat16")
_DTYPE_SYNONYMS = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Part:
    """Rows of a target tensor that come from one tensor of the source.

    Attributes
    ----------
    name
        Name in the source, in its longest form (with the family's prefix); ``{layer}`` stands for the layer.
    transform
        Turns the source tensor into rows of the target, as a view where that is possible; None where it already is.
    rows
        Rows it contributes; None where it is the whole target.
    fallback
        Name to use where the source has no `name`.
    """

    name: str
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    rows: int | None = None
    fallback: str | None = None

    def at(self, layer: int) -> Part:
        """Return the part of one layer."""
        fallback = self.fallback.format(layer=layer) if self.fallback else None
        return Part(self.name.format(layer=layer), self.transform, self.rows, fallback)


@dataclass(frozen=True)
class WeightRule:
    """One whole (not yet sharded) tensor of the checkpoint and the parts that make it, one below the other.

    Attributes
    ----------
    target
        Name in a checkpoint of one rank; layers carry their number in the whole model.
    parts
        Its rows, top to bottom; several where the source keeps apart what the checkpoint fuses (q, k and v).
    """

    target: str
    parts: tuple[Part, ...]


Sources = str | Part | tuple[Part, ...]


@dataclass(frozen=True)
class Family:
    """One family: a declaration that everything else derives from.

    Attributes
    ----------
    name, title
        Short name (``"llama"``) and the name people know.
    architectures
        Class names of config.json that belong to it; the first is the canonical one.
    model_types
        `model_type` values, used where config.json names no architecture.
    base_architectures
        Class names of the model without its head: the same weights when the head is tied.
    read
        HfConfig → fields of ModelConfig that config.json decides.
    weights
        ModelConfig → target name (with ``{layer}``) → its sources.
    traits
        config.json of a TensorRT-LLM checkpoint → the decoder's traits that such files leave out.
    extras
        ModelConfig → keys that TensorRT-LLM's own configuration class of this family wants besides ModelConfig's.
    prefix
        Prefix of source names that some files leave out.
    ignored
        Regular expressions of source tensors that carry no weights (buffers).
    """

    name: str
    title: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    read: Callable[[HfConfig], dict[str, Any]]
    weights: Callable[[ModelConfig], Mapping[str, Sources]]
    traits: Callable[[Mapping[str, Any]], dict[str, Any]]
    extras: Callable[[ModelConfig], dict[str, Any]]
    base_architectures: tuple[str, ...] = ()
    prefix: str = ""
    ignored: tuple[str, ...] = field(default=())

    def config_from_hf(
        self,
        hf_config: Mapping[str, Any],
        dtype: str = "auto",
        mapping: RankMapping | None = None,
        quantization: QuantConfig | None = None,
        *,
        where: str = "config.json",
        **options: Any,
    ) -> ModelConfig:
        """Return the model's configuration.

        Parameters
        ----------
        hf_config
            The parsed config.json.
        dtype
            Element type of the checkpoint, or ``"auto"``: that of the source.
        mapping, quantization
            Ranks and quantization; None for one rank and none.
        where
            The file, for messages.
        **options
            Further fields of ModelConfig: use_parallel_embedding, embedding_sharding_dim, share_embedding_table.

        Raises
        ------
        IntakeError
            When config.json is malformed or asks for something the decoder does not do.
        SpecError
            When the values contradict each other or the mapping.
        """
        from ..specs import Mapping as RankMapping
        from ..specs import ModelConfig, QuantConfig

        hf = HfConfig(hf_config, where)
        hf.refuse_quantized()
        architecture = hf.architecture()
        if architecture not in self.architectures:
            architecture = self.architectures[0]
        fields = {
            "architecture": architecture,
            "dtype": resolve_dtype(dtype, hf.source_dtype(), where),
            "mapping": mapping or RankMapping(),
            "quantization": quantization or QuantConfig(),
            **self.read(hf),
            **options,
        }
        if fields.get("share_embedding_table") and not fields["tie_word_embeddings"]:
            raise IntakeError(
                "share_embedding_table needs a model whose head is tied to its embedding, and this one's is not.",
                where=where,
                remedy="Leave share_embedding_table off.",
            )
        return ModelConfig(**fields)

    def weight_map(self, config: ModelConfig) -> list[WeightRule]:
        """Return one rule for each whole tensor of the model, layers expanded, in the order of the network."""
        head: list[WeightRule] = []
        block: list[tuple[str, tuple[Part, ...]]] = []
        tail: list[WeightRule] = []
        for target, sources in self.weights(config).items():
            parts = _parts(sources)
            if "{layer}" in target:
                block.append((target, parts))
            else:
                (tail if block else head).append(WeightRule(target, parts))
        layers = [
            WeightRule(target.format(layer=layer), tuple(part.at(layer) for part in parts))
            for layer in range(config.num_hidden_layers)
            for target, parts in block
        ]
        return head + layers + tail


def _parts(sources: Sources) -> tuple[Part, ...]:
    if isinstance(sources, str):
        return (Part(sources),)
    return (sources,) if isinstance(sources, Part) else sources


def resolve_dtype(requested: str, source: str | None, where: str = "config.json") -> str:
    """Return the storage type of a checkpoint: `requested`, or for ``"auto"`` that of the source (else float16)."""
    wanted = source or "float16" if requested == "auto" else requested
    wanted = _DTYPE_SYNONYMS.get(wanted, wanted)
    if wanted not in STORAGE_DTYPES:
        raise IntakeError(
            f"A checkpoint cannot store {wanted!r}.",
            where="dtype" if requested != "auto" else where,
            remedy=f"Choose dtype from {', '.join(STORAGE_DTYPES)}.",
        )
    return wanted


def linear(target: str, source: str, *, bias: bool) -> dict[str, Sources]:
    """Return the entries of a linear layer stored as (out_features, in_features)."""
    entries: dict[str, Sources] = {f"{target}.weight": f"{source}.weight"}
    if bias:
        entries[f"{target}.bias"] = f"{source}.bias"
    return entries


def conv1d(target: str, source: str) -> dict[str, Sources]:
    """Return the entries of a linear layer stored as (in_features, out_features), with bias."""
    return {f"{target}.weight": Part(f"{source}.weight", transposed), f"{target}.bias": f"{source}.bias"}


def norm(target: str, source: str, *, bias: bool) -> dict[str, Sources]:
    """Return the entries of a norm."""
    return linear(target, source, bias=bias)


def stacked(target: str, sources: Mapping[str, int], kinds: tuple[str, ...], **part: Any) -> dict[str, Sources]:
    """Return the entries of a fused layer whose parts (source name → rows) the source keeps apart."""
    return {
        f"{target}.{kind}": tuple(Part(f"{source}.{kind}", rows=rows, **part) for source, rows in sources.items())
        for kind in kinds
    }


def tied_head(config: ModelConfig, embedding: str, head: str = "lm_head.weight") -> dict[str, Sources]:
    """Return the entry of the output head; a tied one is read from the embedding where the source stores it once."""
    return {"lm_head.weight": Part(head, fallback=embedding if config.tie_word_embeddings else None)}


def transposed(weight: torch.Tensor) -> torch.Tensor:
    """(in_features, out_features) → (out_features, in_features), as a view."""
    return weight.t()
