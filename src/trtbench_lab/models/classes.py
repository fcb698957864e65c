"""Models in memory, under the names that TensorRT-LLM's users know: change the import and the code moves over.

    model = LLaMAForCausalLM.from_hugging_face("Llama-3-8B", dtype="float16", mapping=Mapping(tp_size=2))
    model.save_checkpoint("checkpoint")

A model holds the weights of one rank. Nothing is written until `save_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from ..checkpoint.conversion import config_from_source
from ..checkpoint.layout import expected_tensors
from ..checkpoint.parts import save_rank
from ..checkpoint.reader import open_checkpoint
from ..checkpoint.source import MemorySource, TensorSource
from ..errors import CheckpointError, IntakeError, SpecError
from ..families import Family, family_for_architecture, family_for_hf
from ..specs import CalibrationConfig, Mapping, ModelConfig, QuantConfig
from .weights import open_source, rank_weights, stored

if TYPE_CHECKING:
    from ..quantization import QuantizeReport


class CausalLM:
    """One rank of a decoder-only model: its configuration and its weights.

    Parameters
    ----------
    config
        The model; its mapping says which rank this is.

    Attributes
    ----------
    config, mapping
        The model and this rank's place.
    weights
        Name → tensor on the CPU, exactly those of `expected_tensors`; empty until `load`.
    source_dir
        Folder that the weights came from, where the tokenizer may be; None when they came from memory.
    """

    families: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, config: ModelConfig):
        self._check_family(family_for_architecture(config.architecture), "config.architecture")
        self.config = config
        self.weights: dict[str, torch.Tensor] = {}
        self.source_dir: Path | None = None
        self._origin: TensorSource | None = None

    def __repr__(self) -> str:
        place = f"rank {self.mapping.rank} of {self.mapping.world_size}"
        size = sum(tensor.nbytes for tensor in self.weights.values())
        algo = self.config.quantization.quant_algo
        kind = self.config.dtype if algo is None else f"{algo.value} over {self.config.dtype}"
        return f"{type(self).__name__}({self.config.architecture}, {kind}, {place}, {size:,} bytes)"

    @property
    def mapping(self) -> Mapping:
        """This rank's place among the ranks."""
        return self.config.mapping

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """Return a model without weights, for `load`."""
        return cls(config)

    @classmethod
    def from_hugging_face(
        cls,
        hf_model_or_dir: Any,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        use_parallel_embedding: bool = False,
        embedding_sharding_dim: int = 0,
        share_embedding_table: bool = False,
        trust_remote_code: bool = False,
    ) -> Self:
        """Read one rank's weights from a Hugging Face model into memory.

        Parameters
        ----------
        hf_model_or_dir
            A local folder, or a model of transformers that is in memory already.
        dtype
            Element type of the weights; ``"auto"`` is the source's.
        mapping
            The ranks and which of them this is; None for one rank.
        quant_config
            Weight-only quantization (W8A16, W4A16), done on the way; None for none.
        use_parallel_embedding, embedding_sharding_dim, share_embedding_table
            As in ModelConfig.
        trust_remote_code
            Accept a folder that comes with Python code; it is not run.

        Raises
        ------
        IntakeError
            A damaged, incomplete or unknown model, or one of another family.
        SpecError, CheckpointError
            When the model cannot be divided as the mapping asks.
        QuantizationError
            When it cannot be quantized as asked.
        """
        source = open_source(hf_model_or_dir, trust_remote_code)
        family = family_for_hf(source.config, where=str(source.directory / "config.json"))
        cls._check_family(family, str(source.directory))
        config = config_from_source(
            source, dtype, mapping,
            quantization=quant_config or QuantConfig(), use_parallel_embedding=use_parallel_embedding,
            embedding_sharding_dim=embedding_sharding_dim, share_embedding_table=share_embedding_table,
        )  # fmt: skip
        model = cls(config)
        model.weights = rank_weights(source, config, family)
        model._origin = source
        model.source_dir = None if isinstance(source, MemorySource) else source.directory
        return model

    @classmethod
    def from_checkpoint(cls, checkpoint_dir: Path | str, rank: int | None = None) -> Self:
        """Open one rank of a checkpoint; its tensors are memory-mapped.

        Raises
        ------
        CheckpointError
            When the checkpoint is not whole, or has no such rank.
        """
        checkpoint = open_checkpoint(checkpoint_dir)
        number = checkpoint.config.mapping.rank if rank is None else rank
        tensors = checkpoint.rank(number)
        model = cls(checkpoint.config.replace(mapping=checkpoint.config.mapping.with_rank(number)))
        model.weights = {name: tensors[name] for name in tensors.names()}
        model.source_dir = checkpoint.source_dir
        return model

    def load(self, weights: MappingOf[str, torch.Tensor]) -> None:
        """Take weights from memory: exactly the names of `expected_tensors`, cast to the checkpoint's type.

        Raises
        ------
        CheckpointError
            Missing or unknown names, wrong shapes or kinds, values that are not finite.
        """
        expected = expected_tensors(self.config, self.mapping)
        missing = [name for name in expected if name not in weights]
        extra = [name for name in weights if name not in expected]
        if missing or extra:
            told = [f"{len(names)} {kind} ({', '.join(names[:6])})" for kind, names in
                    (("missing", missing), ("unknown", extra)) if names]  # fmt: skip
            raise CheckpointError(
                f"The weights do not fit the configuration: {'; '.join(told)}.",
                where="weights",
                remedy="Give the tensors that expected_tensors(config, mapping) names.",
            )
        self.weights = {name: stored(name, weights[name], shape, dtype) for name, (shape, dtype) in expected.items()}
        self._origin = self.source_dir = None

    def save_checkpoint(self, output_dir: Path | str, save_config: bool = True, *, overwrite: bool = False) -> None:
        """Write this rank's file, and config.json too unless another rank does.

        The folder opens once all ranks have written theirs and one has written config.json.

        Raises
        ------
        CheckpointError
            When there are no weights yet, or the folder holds another model.
        StorageError
            When this rank's file is there already (without `overwrite`), or the disk fails.
        """
        if not self.weights:
            raise CheckpointError("The model has no weights yet.", where="weights", remedy="Call load(…) first.")
        digest = getattr(self._origin, "digest", None) if self.mapping.world_size > 1 else None
        save_rank(
            output_dir, self.config, self.weights,
            save_config=save_config, overwrite=overwrite, source_digest=digest() if digest else None,
            source=str(self.source_dir.absolute()) if self.source_dir else None,
        )  # fmt: skip

    @classmethod
    def quantize(
        cls,
        hf_model_dir: Path | str,
        output_dir: Path | str,
        quant_config: QuantConfig | None = None,
        mapping: Mapping | None = None,
        dtype: str = "auto",
        *,
        calib_texts: Sequence[str] | None = None,
        calib_size: int | None = None,
        calib_max_seq_length: int | None = None,
        calib_seed: int | None = None,
        device: str = "auto",
        overwrite: bool = False,
        **options: Any,
    ) -> QuantizeReport:
        """Quantize a Hugging Face folder into a checkpoint of all ranks; called on rank 0 while the others wait.

        Parameters
        ----------
        hf_model_dir, output_dir
            The model and the new checkpoint.
        quant_config
            The algorithm of the linear layers, and of the K/V cache.
        mapping
            The ranks of the checkpoint; None for one.
        dtype
            Type of what is not quantized.
        calib_texts
            Text to calibrate on, where the algorithm needs any; None takes the demo corpus.
        calib_size, calib_max_seq_length, calib_seed
            Rows and their tokens, and the seed of their choice; None takes the defaults of `CalibrationConfig`.
        device
            Where calibration runs; ``"auto"`` takes the GPU if there is one.
        overwrite
            Replace an existing folder as a whole.
        **options
            use_parallel_embedding, embedding_sharding_dim, share_embedding_table; act_order (GPTQ); quantizer (auto,
            ours or modelopt, for FP8 and AWQ).

        Raises
        ------
        SpecError
            On another rank than 0, or without a quantization.
        QuantizationError
            Without a quantization, or when a layer cannot be quantized so.
        """
        from ..calibration import calibration_device, quantize_model
        from ..intake.huggingface import open_hf_folder
        from ..quantization.reference import needs_calibration

        if mapping is not None and mapping.rank != 0:
            raise SpecError(
                f"quantize writes the files of all ranks and was called on rank {mapping.rank}.",
                where="mapping.rank",
                remedy="Call it on rank 0 only, and let the other ranks wait at a barrier.",
            )
        source = open_hf_folder(hf_model_dir)
        cls._check_family(family_for_hf(source.config), str(source.directory))
        quant_config = quant_config or QuantConfig()
        tokens = None
        if needs_calibration(quant_config):
            asked: dict[str, Any] = {
                "calib_size": calib_size,
                "calib_max_seq_length": calib_max_seq_length,
                "calib_seed": calib_seed,
            }
            chosen = CalibrationConfig(**{name: value for name, value in asked.items() if value is not None})
            from ..calibration.text import tokens_for

            tokens = tokens_for(source, calib_texts, chosen)
        return quantize_model(
            source, output_dir, quant_config, tokens,
            dtype=dtype, mapping=mapping, device=calibration_device(device), overwrite=overwrite, **options,
        )  # fmt: skip

    @classmethod
    def _check_family(cls, family: Family, where: str) -> None:
        if cls.families is None or family.name in cls.families:
            return
        raise IntakeError(
            f"The model is of the family {family.title}, which {cls.__name__} does not read.",
            where=where,
            remedy=f"Use {class_for(family).__name__} or AutoModelForCausalLM.",
        )


class GPTForCausalLM(CausalLM):
    """GPT-2, SantaCoder and StarCoder."""

    families = ("gpt2", "gpt_bigcode", "santacoder")


class GPTBigCodeForCausalLM(CausalLM):
    """SantaCoder and StarCoder."""

    families = ("gpt_bigcode", "santacoder")


class LLaMAForCausalLM(CausalLM):
    """LLaMA 1, 2 and 3 and the families with the same layers: Mistral and InternLM."""

    families = ("llama", "mistral", "internlm")

    @classmethod
    def from_meta_ckpt(
        cls,
        meta_ckpt_dir: Path | str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        max_position_embeddings: int | None = None,
        **options: Any,
    ) -> Self:
        """Read one rank's weights from a folder as Meta distributes LLaMA (params.json, consolidated.NN.pth).

        Parameters
        ----------
        meta_ckpt_dir
            The folder.
        dtype, mapping, quant_config, **options
            As in `from_hugging_face`.
        max_position_embeddings
            Longest sequence, which such folders do not say; see `open_meta_folder`.

        Raises
        ------
        IntakeError
            A damaged or incomplete folder, or parameters of another architecture.
        """
        from ..intake.meta import open_meta_folder

        source = open_meta_folder(meta_ckpt_dir, max_position_embeddings=max_position_embeddings)
        return cls.from_hugging_face(source, dtype, mapping, quant_config, **options)


class MistralForCausalLM(CausalLM):
    """Mistral."""

    families = ("mistral",)


class InternLMForCausalLM(CausalLM):
    """InternLM."""

    families = ("internlm",)


class QWenForCausalLM(CausalLM):
    """Qwen 2 and 2.5."""

    families = ("qwen2",)


class AutoModelForCausalLM(CausalLM):
    """Any family: its class methods return a model of the class that fits."""

    @classmethod
    def from_config(cls, config: ModelConfig) -> Any:
        """Return a model without weights, of the class that fits."""
        return class_for(family_for_architecture(config.architecture)).from_config(config)

    @classmethod
    def from_hugging_face(cls, hf_model_or_dir: Any, *args: Any, **options: Any) -> Any:
        """Read a model of any family; the parameters are those of `CausalLM.from_hugging_face`."""
        source = open_source(hf_model_or_dir, bool(options.get("trust_remote_code", False)))
        family = family_for_hf(source.config, where=str(source.directory / "config.json"))
        return class_for(family).from_hugging_face(source, *args, **options)

    @classmethod
    def from_checkpoint(cls, checkpoint_dir: Path | str, rank: int | None = None) -> Any:
        """Open one rank of a checkpoint of any family."""
        config = open_checkpoint(checkpoint_dir).config
        return class_for(family_for_architecture(config.architecture)).from_checkpoint(checkpoint_dir, rank)


def class_for(family: Family) -> type[CausalLM]:
    """Return the most particular class of a family; `CausalLM` for one that has none of its own."""
    own = [cls for cls in CausalLM.__subclasses__() if cls.families and family.name in cls.families]
    return min(own, key=lambda cls: len(cls.families or ()), default=CausalLM)
