"""Which kernel a matrix product runs, as plain data: what tuning measures, engines keep, and launches read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

KERNELS = ("matvec", "slice", "tile", "direct", "stream", "library")


@dataclass(frozen=True)
class Problem:
    """A matrix product that kernels compete for.

    Attributes
    ----------
    rows, out_features, in_features
        M, N and K; rows is the number that the product is tuned for.
    kind
        See `LinearWeights.kind`.
    dtype
        Type of the computation, as torch names it.
    group_size
        Of the weight's scales; None for one an output.
    gated
        Whether two weights are multiplied at once (``act(x Wᵀ) · (x W2ᵀ)``).
    norm
        ``"rms"``, ``"layer"`` or None: normalised in the kernel's prologue.
    zeros
        Whether groups have zero points.
    """

    rows: int
    out_features: int
    in_features: int
    kind: str = "dense"
    dtype: str = "bfloat16"
    group_size: int | None = None
    gated: bool = False
    norm: str | None = None
    zeros: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one product reads."""
        item = {"float32": 4}.get(self.dtype, 2)
        elements = self.out_features * self.in_features
        stored = {"dense": elements * item, "int4": elements // 2}.get(self.kind, elements)
        scales = 0 if self.group_size is None else elements // self.group_size * item
        return (stored + scales) * (2 if self.gated else 1)

    @property
    def key(self) -> str:
        """A short name, the same for equal problems: the key under which an engine keeps its choice."""
        parts = [f"{self.rows}x{self.out_features}x{self.in_features}", self.kind, self.dtype]
        parts += [] if self.group_size is None else [f"g{self.group_size}"]
        parts += ["zeros"] if self.zeros else []
        parts += ["gated"] if self.gated else []
        parts += [] if self.norm is None else [self.norm]
        return "-".join(parts)


@dataclass(frozen=True)
class Choice:
    """How to compute a product.

    Attributes
    ----------
    kernel
        ``"matvec"`` (one row), ``"slice"`` (a few rows, small weights), ``"direct"`` and ``"stream"`` (up to 8 rows
        in 16 bits), ``"tile"`` (any), or ``"library"``: the GPU vendor's, after dequantizing into a scratch where the
        weight is quantized.
    block_m, block_n
        Rows and outputs of a program.
    block_c
        Cells along K of a step: elements, or words of eight 4-bit elements. For ``"matvec"`` units of 16 bytes or so,
        for ``"slice"``, ``"direct"`` and ``"stream"`` the cells of one warp (for the latter two words of four 8-bit
        elements, too).
    split_k
        Programs along K; for ``"stream"`` those of a multiprocessor.
    swap
        The weight takes the tensor cores' long side (for few rows).
    num_warps, num_stages
        Options of the compiler; for ``"stream"`` the second is the number of steps read ahead.
    """

    kernel: str
    block_m: int = 1
    block_n: int = 8
    block_c: int = 128
    split_k: int = 1
    swap: bool = False
    num_warps: int = 4
    num_stages: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        """Undo `to_dict`; unknown keys of a later version are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
