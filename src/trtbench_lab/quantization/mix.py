"""Choose one option for each layer so that the losses add up to the least under a budget of bytes: exactly, or with a
bound on what is left.

Layers are taken one after the other, and of all choices so far only those are kept that no other beats in bytes and
loss (a multiple-choice knapsack over Pareto fronts). Layers of equal shapes give few different sums of bytes, so this
is exact in practice. Where a front grows beyond `MOST_STATES`, bytes are rounded up to a grid: the choice still keeps
the budget, and its distance from the best is bounded by Lagrange's lower bound::

    best ≥ max over λ ≥ 0 of  Σ_layers min_options (loss + λ · bytes) − λ · budget

The λ of the maximum is what a byte is worth: a layer takes more bytes where each saves more loss than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import QuantizationError

MOST_STATES = 20_000


@dataclass(frozen=True)
class MixOption:
    """One way to keep a layer.

    Attributes
    ----------
    name
        Of the format.
    size_bytes, loss
        What it takes, and what it costs in quality.
    """

    name: str
    size_bytes: int
    loss: float


@dataclass(frozen=True)
class Mix:
    """A choice for all layers.

    Attributes
    ----------
    choice
        Index of each layer's option.
    size_bytes, loss
        Sums of the choice.
    lower_bound
        No choice under the budget has less loss.
    is_exact
        Whether the choice is the best one.
    price
        Loss that a byte is worth at this budget; 0 where the budget does not bind.
    """

    choice: tuple[int, ...]
    size_bytes: int
    loss: float
    lower_bound: float
    is_exact: bool
    price: float


def best_mix(layers: Sequence[Sequence[MixOption]], budget_bytes: int, *, most_states: int = MOST_STATES) -> Mix:
    """Return the choice of least loss with at most `budget_bytes`.

    Raises
    ------
    QuantizationError
        When even the smallest options together are larger.
    """
    import numpy as np

    smallest = [min(option.size_bytes for option in options) for options in layers]
    if sum(smallest) > budget_bytes:
        raise QuantizationError(
            f"The budget is {budget_bytes:,} bytes, and the smallest formats together take {sum(smallest):,}.",
            where="budget",
            remedy="Raise the budget, or allow smaller formats.",
        )
    still = np.cumsum([0, *smallest[::-1]])[::-1]  # least bytes of the layers to come
    charged, losses = np.zeros(1, dtype=np.int64), np.zeros(1)
    exact = True
    trail = []  # for each layer: (state before, option) of each state
    for number, options in enumerate(layers):
        sizes = charged[:, None] + np.array([option.size_bytes for option in options])
        totals = losses[:, None] + np.array([option.loss for option in options])
        flat, flat_losses = sizes.ravel(), totals.ravel()
        order = np.lexsort((flat_losses, flat))
        order = order[flat[order] + still[number + 1] <= budget_bytes]
        least = np.minimum.accumulate(flat_losses[order])
        kept = order[np.concatenate([[True], least[1:] < least[:-1]])]
        if len(kept) > most_states:
            exact = False
            grid = max(1, budget_bytes // most_states)
            cells = -(-flat[kept] // grid)  # of one cell the last has the least loss
            last = np.concatenate([cells[1:] != cells[:-1], [True]])
            kept = kept[last]
        charged, losses = flat[kept], flat_losses[kept]
        trail.append((kept // len(options), kept % len(options)))
    place, choice = int(np.argmin(losses)), []
    for before, option in reversed(trail):
        choice.append(int(option[place]))
        place = int(before[place])
    choice.reverse()
    loss = float(sum(options[i].loss for options, i in zip(layers, choice, strict=True)))
    bound, price = lower_bound(layers, budget_bytes)
    return Mix(
        choice=tuple(choice),
        size_bytes=sum(options[i].size_bytes for options, i in zip(layers, choice, strict=True)),
        loss=loss,
        lower_bound=loss if exact else min(bound, loss),
        is_exact=exact,
        price=price,
    )


def lower_bound(layers: Sequence[Sequence[MixOption]], budget_bytes: int) -> tuple[float, float]:
    """Return Lagrange's bound on the loss, and its λ: the dual is concave, with a corner wherever two options tie."""

    def dual(price: float) -> tuple[float, int]:
        chosen = [min(options, key=lambda o: (o.loss + price * o.size_bytes, o.size_bytes)) for options in layers]
        size = sum(option.size_bytes for option in chosen)
        return sum(o.loss + price * o.size_bytes for o in chosen) - price * budget_bytes, size

    low = 0.0
    value, size = dual(low)
    if size <= budget_bytes:
        return value, low
    spread = [option.loss for options in layers for option in options]
    high = (max(spread) - min(spread)) + 1e-30  # a byte never saves more than the whole
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if dual(middle)[1] > budget_bytes else (low, middle)
    return max((dual(price)[0], price) for price in (low, high, 0.0))
