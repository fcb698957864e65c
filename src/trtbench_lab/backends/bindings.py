"""What every executor checks before it runs: names, types, shapes, and that nothing is written past a cache's end."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import EngineError, RequestError, did_you_mean
from ..network.signature import CAPACITY, LENGTH, TensorSpec


class Bindings:
    """The tensors bound to one engine's inputs and outputs.

    Parameters
    ----------
    io
        The engine's inputs and outputs.
    device
        Where bound tensors must live.
    max_positions
        Positions that the engine's tables reach.
    vocab_size
        Number of token ids.
    """

    def __init__(self, io: Sequence[TensorSpec], device: torch.device, *, max_positions: int, vocab_size: int):
        self.specs = {spec.name: spec for spec in io}
        self.tensors: dict[str, torch.Tensor] = {}
        self._device = device
        self._max_positions, self._vocab_size = max_positions, vocab_size
        self._aliases = {spec.aliases: spec.name for spec in io if spec.aliases}
        self._required = [spec.name for spec in io if spec.aliases is None]
        fixed = [spec.shape[2] for spec in io if spec.name in self._aliases and len(spec.shape) == 4]
        # An engine may fix the caches' capacity; where it does not, every run has its own (see `sizes`).
        self._fixed_capacity = min((size for size in fixed if isinstance(size, int)), default=max_positions)
        self._sizes: dict[str, int] | None = None  # of the dynamic dimensions; None until checked

    def bind(self, name: str, tensor: torch.Tensor) -> TensorSpec:
        """Check `tensor` and keep it for `name`; return the spec.

        Raises
        ------
        EngineError
            For an unknown name.
        RequestError
            For a tensor that does not fit.
        """
        spec = self.specs.get(name)
        if spec is None:
            raise EngineError(
                f"The engine has no input or output {name!r}.",
                where="bind",
                remedy=did_you_mean(name, list(self.specs)),
            )
        if not isinstance(tensor, torch.Tensor):
            raise RequestError(
                f"A torch tensor is needed, not {type(tensor).__name__}.",
                where=name,
                remedy="Wrap it with torch.as_tensor.",
            )
        if spec.aliases is not None:
            self._check_alias(spec, tensor)
            return spec
        current = self.tensors.get(name)
        if current is not None and _same_memory(current, tensor):  # a loop may bind the same buffers every step
            self.tensors[name] = tensor
            return spec
        self._check(spec, tensor)
        self.tensors[name] = tensor
        self._sizes = None
        return spec

    def alias_of(self, name: str) -> str | None:
        """Return the output that shares memory with the input `name`."""
        return self._aliases.get(name)

    def sizes(self) -> dict[str, int]:
        """Return the dynamic dimensions of what is bound; everything must be bound and agree.

        Raises
        ------
        RequestError
            When a tensor is not bound or two disagree about a dimension.
        """
        if self._sizes is None:
            self._sizes = self._checked_sizes()
        return self._sizes

    def guard(self) -> None:
        """Refuse tokens, positions and writes that lie outside of what the engine has.

        Raises
        ------
        RequestError
            Naming the first value that is out of range.
        """
        sizes = self.sizes()
        capacity = sizes.get(CAPACITY, self._fixed_capacity)
        limit = min(capacity, self._max_positions)
        low, high = _range(self.tensors["write_indices"])
        length = sizes[LENGTH]
        if low < 0 or high + length > limit:
            self._refuse_write(low, high, length, capacity)
        if (tokens := self.tensors.get("input_ids")) is not None:
            low, high = _range(tokens)
            if low < 0 or high >= self._vocab_size:
                raise RequestError(
                    f"The token id {low if low < 0 else high} is outside of the vocabulary (0 to "
                    f"{self._vocab_size - 1}).",
                    where="input_ids",
                    remedy="Encode the text with the tokenizer that belongs to this model.",
                )
        if (wanted := self.tensors.get("logit_indices")) is not None:
            low, high = _range(wanted)
            if low < 0 or high >= length:
                raise RequestError(
                    f"Logits are wanted at position {low if low < 0 else high} of {length} new tokens.",
                    where="logit_indices",
                    remedy=f"Give positions from 0 to {length - 1} within the tokens of this run.",
                )

    def clear(self) -> None:
        """Let go of every tensor."""
        self.tensors.clear()
        self._sizes = None

    def _check(self, spec: TensorSpec, tensor: torch.Tensor) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            raise RequestError(
                f"The tensor is {dtype}; the engine takes {spec.dtype}.",
                where=spec.name,
                remedy=f"Convert it with .to(torch.{spec.dtype}).",
            )
        if tensor.device.type != self._device.type or (self._device.index not in (None, tensor.device.index)):
            raise RequestError(
                f"The tensor is on {tensor.device}; the engine runs on {self._device}.",
                where=spec.name,
                remedy=f"Move it with .to({str(self._device)!r}).",
            )
        shape = tuple(tensor.shape)
        fits = len(shape) == len(spec.shape) and all(
            isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, spec.shape, strict=True)
        )
        if not fits or 0 in shape:
            raise RequestError(
                f"The tensor has shape {shape}; the engine takes ({', '.join(map(str, spec.shape))}).",
                where=spec.name,
                remedy="Named sizes are free, at least 1; the others are the model's.",
            )
        if not tensor.is_contiguous():
            raise RequestError(
                "The tensor is not contiguous in memory.", where=spec.name, remedy="Bind tensor.contiguous()."
            )

    def _check_alias(self, spec: TensorSpec, tensor: torch.Tensor) -> None:
        past = self.tensors.get(spec.aliases or "")
        if past is None or past.data_ptr() != tensor.data_ptr() or past.shape != tensor.shape:
            raise RequestError(
                f"This output shares the memory of {spec.aliases!r}.",
                where=spec.name,
                remedy=f"Bind {spec.aliases!r} only; it is updated in place.",
            )

    def _checked_sizes(self) -> dict[str, int]:
        missing = [name for name in self._required if name not in self.tensors]
        if missing:
            shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise RequestError(f"Nothing is bound to {shown}.", where="run", remedy="Bind every input and logits.")
        sizes: dict[str, int] = {}
        first: dict[str, str] = {}
        for name in self._required:
            for wanted, size in zip(self.specs[name].shape, self.tensors[name].shape, strict=True):
                if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
                    raise RequestError(
                        f"{name!r} has {wanted} {size}, but {first[wanted]!r} has {sizes[wanted]}.",
                        where=name,
                        remedy=f"Bind tensors of one {wanted}.",
                    )
                if isinstance(wanted, str):
                    first.setdefault(wanted, name)
        self._check_overlap()
        return sizes

    def _check_overlap(self) -> None:
        """Two caches in one memory would overwrite each other without a word."""
        owner: dict[int, str] = {}
        for name in self._aliases:
            other = owner.setdefault(self.tensors[name].data_ptr(), name)
            if other != name:
                raise RequestError(
                    f"{name!r} and {other!r} are bound to the same memory.",
                    where=name,
                    remedy="Give each layer's keys and values memory of their own.",
                )

    def _refuse_write(self, low: int, high: int, length: int, capacity: int) -> None:
        if low < 0:
            raise RequestError(
                f"A write index is {low}.", where="write_indices", remedy="Count the tokens in the cache from 0."
            )
        if high + length > capacity:
            raise RequestError(
                f"{length} new tokens after {high} do not fit into a cache of {capacity}.",
                where="write_indices",
                remedy="Bind a larger cache, or stop the sequence.",
            )
        raise RequestError(
            f"{length} new tokens after {high} reach past the engine's {self._max_positions} positions.",
            where="write_indices",
            remedy="Build the engine with a larger max_seq_len, where the model's positions allow it.",
        )


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.dtype == other.dtype
        and one.device == other.device
        and one.stride() == other.stride()
    )


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    if tensor.numel() == 1:  # a decode step of one row: three such reads cost 1 µs, aminmax 6 µs
        value = int(tensor)
        return value, value
    low, high = torch.aminmax(tensor)
    return int(low), int(high)
