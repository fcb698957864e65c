"""How a mixed recipe was found, and why each layer got what it got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..quantization.mix import MixOption


@dataclass(frozen=True)
class LayerChoice:
    """One unit of the choice.

    Attributes
    ----------
    module
        Its name; two names where an MLP's two first layers are chosen together.
    chosen
        Its format.
    loss, size_bytes
        Of the chosen format.
    losses, sizes
        Of every format by name.
    why
        A sentence.
    """

    module: str
    chosen: str
    loss: float
    size_bytes: int
    losses: dict[str, float]
    sizes: dict[str, int]
    why: str

    @classmethod
    def of(cls, module: str, options: Sequence[MixOption], chosen: int, price: float) -> LayerChoice:
        """Describe the choice of `options[chosen]` where a byte is worth `price`."""
        taken = options[chosen]
        return cls(
            module=module,
            chosen=taken.name,
            loss=taken.loss,
            size_bytes=taken.size_bytes,
            losses={option.name: option.loss for option in options},
            sizes={option.name: option.size_bytes for option in options},
            why=_why(options, taken, price),
        )


@dataclass(frozen=True)
class SearchReport:
    """A search.

    Attributes
    ----------
    metric
        ``"kl"`` or ``"nll"``, in nats a token.
    budget, budget_bytes, plain_bytes, size_bytes
        The share asked for; bytes that it allows, that the layers take unquantized, and that the mix takes.
    predicted_loss, measured_loss
        Sum of the layers' own losses; the loss of the whole mix, measured on the same tokens.
    lower_bound, is_exact
        No mix under the budget has a smaller sum; whether the mix is the best one.
    price
        Loss that a byte is worth at this budget.
    tokens
        Tokens measured on.
    layers
        One entry a unit.
    """

    metric: str
    budget: float
    budget_bytes: int
    plain_bytes: int
    size_bytes: int
    predicted_loss: float
    measured_loss: float
    lower_bound: float
    is_exact: bool
    price: float
    tokens: int
    layers: list[LayerChoice]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def _why(options: Sequence[MixOption], taken: MixOption, price: float) -> str:
    better = [o for o in options if o.loss < taken.loss and o.size_bytes > taken.size_bytes]
    smaller = [o for o in options if o.size_bytes < taken.size_bytes]
    parts = []
    if better:
        best = max(better, key=lambda o: (taken.loss - o.loss) / (o.size_bytes - taken.size_bytes))
        saved, more = taken.loss - best.loss, best.size_bytes - taken.size_bytes
        parts.append(f"{best.name} would save {saved:.2g} nats for {more:,} bytes more{_worth(saved / more, price)}")
    if smaller:
        best = min(smaller, key=lambda o: (o.loss - taken.loss) / (taken.size_bytes - o.size_bytes))
        lost, less = best.loss - taken.loss, taken.size_bytes - best.size_bytes
        parts.append(f"{best.name} would free {less:,} bytes and lose {lost:.2g} nats{_worth(lost / less, price)}")
    if not parts:
        return "nothing smaller is offered, and nothing loses less"
    return "; ".join(parts)


def _worth(ratio: float, price: float) -> str:
    return f" ({ratio / price:.2g} × what a byte is worth)" if price > 0 else ""
