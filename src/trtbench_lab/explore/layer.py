"""The one form in which layers of every backend and of every saved file are held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from .dtypes import dtype_bits

UNKNOWN_SIZE = -1


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """One tensor that a layer reads or writes.

    Attributes
    ----------
    name
        Its name, or "" where none is known.
    dtype
        Common name of the element type, or None.
    shape
        Sizes, -1 for one that is chosen in each run; None where nothing is known.
    layout
        How it lies in memory, in the words of the source.
    """

    name: str = ""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    layout: str | None = None

    @property
    def elements(self) -> int | None:
        """Number of elements, None where a size is not known."""
        if self.shape is None or any(size < 0 for size in self.shape):
            return None
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Size in bytes, None where shape or type is not known."""
        bits, elements = dtype_bits(self.dtype), self.elements
        return None if bits is None or elements is None else -(-bits * elements // 8)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine, as the engine has it: one operator, or a fusion of several.

    Attributes
    ----------
    name, type
        In the words of the engine.
    kind
        What sort of work it is, in our words: see `kinds.KINDS`.
    module
        The module of ours that it computes (the innermost that holds all it is made of); None where that is not known.
    nodes
        Nodes of our network that it is made of, where their names survived.
    inputs, outputs
        Tensors; weights are apart.
    weights_bytes, weights_dtype
        Constants that it reads; None where the source does not tell.
    tactic
        The kernel that was chosen.
    flops
        Floating-point operations of one run (a multiply and an add count as two); None where they cannot be told.
    moved_bytes
        Bytes that one run reads and writes at least, weights included; None where they cannot be told.
    times_ms
        Time of each recorded run.
    inferred
        Whether `module` was inferred from the neighbours in the order of execution.
    """

    name: str
    type: str
    kind: str
    module: str | None = None
    nodes: tuple[str, ...] = ()
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    weights_bytes: int | None = None
    weights_dtype: str | None = None
    tactic: str | None = None
    flops: int | None = None
    moved_bytes: int | None = None
    times_ms: tuple[float, ...] = ()
    inferred: bool = False

    @property
    def time_ms(self) -> float | None:
        """Median time of a run, None without recorded times."""
        return median(self.times_ms) if self.times_ms else None

    @property
    def dtype_in(self) -> str:
        """Types of the inputs, each once: ``"float16, int32"``."""
        return ", ".join(dict.fromkeys(tensor.dtype for tensor in self.inputs if tensor.dtype))

    @property
    def dtype_out(self) -> str:
        """Types of the outputs, each once."""
        return ", ".join(dict.fromkeys(tensor.dtype for tensor in self.outputs if tensor.dtype))

    @property
    def precision(self) -> str | None:
        """The type that it computes in, as far as its tensors tell: of its weights, else of its first real input."""
        from .dtypes import is_float

        reals = [t.dtype for t in (*self.inputs, *self.outputs) if is_float(t.dtype)]
        return self.weights_dtype or (reals[0] if reals else None)

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of inputs and outputs together, None where none of them is known."""
        sizes = [tensor.nbytes for tensor in (*self.inputs, *self.outputs) if tensor.nbytes is not None]
        return sum(sizes) if sizes else None
