"""What is inside one rank's engine, read from its files without loading it: tensors, operators, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backends.emulation import quantization_words
from ..backends.protocol import TensorSpec, engine_file_name
from ..errors import EngineError
from .present import bytes_text, html_facts, html_table, plain_facts, plain_table
from .verify import check_rank

if TYPE_CHECKING:
    from .folder import Engine

# Part of the model ← what its tensors' names contain; the first that fits counts.
_PARTS = (
    ("embedding", ("vocab_embedding", "position_embedding")),
    ("attention", (".attention.",)),
    ("mlp", (".mlp.",)),
    ("norm", ("layernorm", "ln_f")),
    ("head", ("lm_head",)),
)
_TABLES = "tables and constants"


class StoredTensor(NamedTuple):
    """One tensor of an engine file: its name, element type and size."""

    name: str
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class WeightGroup:
    """Tensors of one part of the model in one element type."""

    part: str
    dtype: str
    num_tensors: int
    nbytes: int


@dataclass(frozen=True)
class EngineInspection:
    """What is inside one rank's engine.

    Attributes
    ----------
    backend
        Who built it and runs it.
    rank
        The rank.
    inputs, outputs
        Named tensors with element types and sizes; a name as a size is chosen anew in each run.
    operators
        Operator → how often the engine has it; other than ONNX's own carry their domain. None for a backend whose
        engine is a file of weights.
    weights
        Weights by part of the model and element type.
    quantization
        The algorithm, or ``"none"``.
    notes
        What the backend chose or could not honour.
    """

    backend: str
    rank: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int] | None
    weights: tuple[WeightGroup, ...]
    quantization: str
    notes: list[str] = field(default_factory=list)

    @property
    def weights_bytes(self) -> int:
        """Size of all weights."""
        return sum(group.nbytes for group in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain data."""
        return {
            "backend": self.backend,
            "rank": self.rank,
            "inputs": [_tensor_dict(spec) for spec in self.inputs],
            "outputs": [_tensor_dict(spec) for spec in self.outputs],
            "operators": self.operators,
            "weights": [vars(group) for group in self.weights],
            "weights_bytes": self.weights_bytes,
            "quantization": self.quantization,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        parts = [plain_facts(self._title(), self._facts())]
        parts += [plain_table(title, columns, rows) for title, columns, rows in self._tables()]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        tables = (html_table(title, columns, rows) for title, columns, rows in self._tables())
        return html_facts(self._title(), self._facts()) + "".join(tables)

    def _title(self) -> str:
        return f"Inside the {self.backend} engine of rank {self.rank}"

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "backend": self.backend,
            "weights": bytes_text(self.weights_bytes),
            "quantization": self.quantization,
        }
        if self.operators is None:
            facts["operators"] = "none: the file holds weights, and the backend's own modules compute"
        if self.notes:
            facts["notes"] = self.notes
        return facts

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        rows: list[tuple[Any, ...]] = [
            (group.part, group.dtype, group.num_tensors, bytes_text(group.nbytes)) for group in self.weights
        ]
        yield "Weights", ("part", "data type", "tensors", "size"), rows
        if self.operators:
            yield "Operators", ("operator", "count"), list(self.operators.items())
        rows = [
            (spec.name, spec.mode, spec.dtype, " × ".join(map(str, spec.shape)), spec.aliases or "")
            for spec in _without_repetition((*self.inputs, *self.outputs))
        ]
        yield "Inputs and outputs", ("tensor", "mode", "data type", "shape", "shares memory with"), rows


def inspect_engine(engine: Engine, rank: int = 0) -> EngineInspection:
    """Return what is inside one rank's engine.

    Raises
    ------
    EngineMismatchError
        For a rank that the engine does not have.
    EngineError
        When the file cannot be read.
    """
    config = engine.config
    check_rank(config, rank, str(engine.directory))
    path = engine.directory / engine_file_name(rank)
    read = {"onnxruntime": _read_onnx, "torch": _read_safetensors}.get(config.backend)
    if read is None:
        raise EngineError(
            f"Engines of the {config.backend} backend cannot be looked into by this version.",
            where=str(path),
            remedy="`trtbench explore` shows its layers; engine.summary() tells what config.json knows.",
        )
    operators, tensors = read(path)
    io = _signature(engine, rank)
    return EngineInspection(
        backend=config.backend,
        rank=rank,
        inputs=tuple(spec for spec in io if spec.mode == "input"),
        outputs=tuple(spec for spec in io if spec.mode == "output"),
        operators=operators,
        weights=grouped(tensors),
        quantization=quantization_words(config.backend, config.pretrained_config.quantization),
        notes=list(config.notes),
    )


def grouped(tensors: list[StoredTensor]) -> tuple[WeightGroup, ...]:
    """Return tensors by part of the model and element type, in the order of the model."""
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for tensor in tensors:
        group = part_of(tensor.name), tensor.dtype
        counts[group] += 1
        sizes[group] += tensor.nbytes
    order = [*(part for part, _ in _PARTS), _TABLES]
    keys = sorted(counts, key=lambda key: (order.index(key[0]), key[1]))
    return tuple(WeightGroup(part, dtype, counts[part, dtype], sizes[part, dtype]) for part, dtype in keys)


def part_of(name: str) -> str:
    """Return the part of the model that a tensor belongs to, by its checkpoint name."""
    for part, marks in _PARTS:
        if any(mark in name for mark in marks):
            return part
    return _TABLES


def _signature(engine: Engine, rank: int) -> tuple[TensorSpec, ...]:
    from ..network.signature import signature

    model = engine.config.pretrained_config
    compute_dtype = engine.config.build_config.compute_dtype
    return signature(model, model.mapping.with_rank(rank), compute_dtype)


def _read_onnx(path: Path) -> tuple[dict[str, int], list[StoredTensor]]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise _unreadable(path, error) from error
    names = Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for node in model.graph.node
    )
    operators = dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))
    tensors = []
    for initializer in model.graph.initializer:
        dtype = onnx.TensorProto.DataType.Name(initializer.data_type).lower()
        outside = {entry.key: entry.value for entry in initializer.external_data}
        # Packed types (INT4) hold several elements a byte, so the stored length counts, not the shape.
        nbytes = int(outside["length"]) if "length" in outside else _inline_bytes(initializer)
        tensors.append(StoredTensor(initializer.name, _TORCH_NAMES.get(dtype, dtype), nbytes))
    return operators, tensors


_TORCH_NAMES = {"float": "float32", "double": "float64"}


def _inline_bytes(initializer: Any) -> int:
    import onnx.numpy_helper

    return len(initializer.raw_data) or int(onnx.numpy_helper.to_array(initializer).nbytes)


def _read_safetensors(path: Path) -> tuple[None, list[StoredTensor]]:
    from ..checkpoint.safetensors_file import TORCH_DTYPES, SafetensorsFile

    file = SafetensorsFile(path, error=EngineError)
    places = file.locations
    return None, [
        StoredTensor(name, TORCH_DTYPES.get(place.dtype, place.dtype), place.nbytes) for name, place in places.items()
    ]


def _unreadable(path: Path, error: Exception) -> EngineError:
    return EngineError(
        "The engine file cannot be read.",
        where=str(path),
        remedy="Build the engine again.",
        details=f"{type(error).__name__}: {error}",
    )


def _tensor_dict(spec: TensorSpec) -> dict[str, Any]:
    return {**vars(spec), "shape": list(spec.shape)}


def _without_repetition(specs: tuple[TensorSpec, ...]) -> list[TensorSpec]:
    """Drop the caches of all layers but the first: they are alike."""
    return [spec for spec in specs if not spec.name.startswith(("past_", "present_")) or spec.name.endswith("_0")]
