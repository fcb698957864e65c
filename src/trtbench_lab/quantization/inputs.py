"""What calibration learns of a linear layer's inputs, in memory that does not grow with the number of tokens."""

from __future__ import annotations

import torch

from ..errors import QuantizationError

SAMPLE_TOKENS = 1024
"""Tokens kept of each layer's inputs, to measure errors of outputs on."""
_PART_ELEMENTS = 1 << 18
"""Inputs whose sizes a CPU takes at a time: 1 MB, which a core's cache holds."""
_GRAM_ROWS = 256
"""Rows of the Gram matrix that are summed up at a time, each from its diagonal on: 53 % of a whole product at 4,096."""


class LayerInputs:
    """Statistics of one linear layer's inputs.

    Parameters
    ----------
    in_features
        Width of the inputs.
    name
        The layer, for errors.
    with_gram
        Also sum up the products ``xᵀ x`` (GPTQ needs them): in_features² floats.
    num_tokens
        Tokens that will be seen in all; the sample takes them at even distances.
    device
        Where the inputs lie and the sums are kept.

    Attributes
    ----------
    largest
        (in,) float32: max |x| of each feature.
    mean_abs
        (in,) float32: mean |x| of each feature.
    gram
        (in, in) float32: sum of xᵀ x; None unless asked for.
    sample
        (n ≤ SAMPLE_TOKENS, in) float32: some of the tokens.
    """

    def __init__(
        self,
        in_features: int,
        name: str,
        *,
        num_tokens: int,
        with_gram: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.name = name
        self.largest = torch.zeros(in_features, device=device)
        self._upper = torch.zeros(in_features, in_features, device=device) if with_gram else None
        self._mirrored = True
        self._sum = torch.zeros(in_features, dtype=torch.float64, device=device)
        self._every = max(1, num_tokens // SAMPLE_TOKENS)
        self._seen = 0
        self._kept: list[torch.Tensor] = []

    def add(self, x: torch.Tensor) -> None:
        """Take in inputs (…, in).

        Raises
        ------
        QuantizationError
            For values that are not finite.
        """
        x = x.detach().flatten(0, -2).float()  # (tokens, in)
        largest, total = torch.zeros_like(self.largest), torch.zeros_like(self._sum)
        rows = max(1, _PART_ELEMENTS // x.shape[1]) if x.device.type == "cpu" else len(x)
        for part in x.split(rows):
            size = part.abs()
            largest = torch.maximum(largest, size.amax(0))  # NaN and infinity stay
            # A part in float32 (torch sums pairwise), parts in float64: float64 throughout took 60 × as long.
            total += size.sum(0)
        if not bool(torch.isfinite(largest).all()):
            raise QuantizationError(
                "The layer's inputs are not finite on the calibration text.",
                where=self.name,
                remedy="The model overflows or its weights are damaged: run it unquantized first.",
            )
        torch.maximum(self.largest, largest, out=self.largest)
        self._sum += total
        if self._upper is not None:
            self._mirrored = False
            for start in range(0, x.shape[1], _GRAM_ROWS):
                rows = slice(start, start + _GRAM_ROWS)
                self._upper[rows, start:].addmm_(x[:, rows].t(), x[:, start:])
        first = -self._seen % self._every
        room = SAMPLE_TOKENS - sum(len(part) for part in self._kept)
        self._kept.append(x[first :: self._every][:room].clone())
        self._seen += len(x)

    @property
    def num_tokens(self) -> int:
        """Tokens seen."""
        return self._seen

    @property
    def gram(self) -> torch.Tensor | None:
        if self._upper is not None and not self._mirrored:
            with torch.inference_mode():  # calibration makes the matrix in it
                for start in range(0, len(self._upper), _GRAM_ROWS):
                    rows = slice(start, start + _GRAM_ROWS)
                    block = self._upper[rows, rows]
                    block.copy_(block.triu() + block.triu(1).t())
                    self._upper[rows.stop :, rows] = self._upper[rows, rows.stop :].t()
            self._mirrored = True
        return self._upper

    @property
    def mean_abs(self) -> torch.Tensor:
        return (self._sum / max(1, self._seen)).float()

    @property
    def sample(self) -> torch.Tensor:
        return torch.cat(self._kept)

    def outlier_channels(self, factor: float = 20.0) -> int:
        """Count the features whose largest value is over `factor` times the median feature's."""
        return int((self.largest > factor * self.largest.median().clamp_min(1e-30)).sum())
