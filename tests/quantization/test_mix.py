"""The best mix under a budget, against trying every mix."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.errors import QuantizationError
from trtbench_lab.quantization.mix import MixOption, best_mix, lower_bound

OPTION = st.builds(MixOption, st.just("f"), st.integers(1, 30), st.floats(0, 1, allow_subnormal=False))
LAYERS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def tried(layers, budget: int) -> float:
    fitting = [mix for mix in itertools.product(*layers) if sum(option.size_bytes for option in mix) <= budget]
    return min(sum(option.loss for option in mix) for mix in fitting)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.integers(0, 60))
def test_nothing_that_was_tried_is_better(layers, more: int) -> None:
    budget = sum(min(option.size_bytes for option in options) for options in layers) + more
    best, mix = tried(layers, budget), best_mix(layers, budget)
    assert mix.is_exact
    assert mix.size_bytes <= budget
    assert mix.loss == pytest.approx(best, abs=1e-12)
    bound, price = lower_bound(layers, budget)
    assert bound <= best + 1e-9  # rounding of λ · bytes
    assert price >= 0
    rough = best_mix(layers, budget, most_states=2)
    assert rough.size_bytes <= budget
    assert rough.lower_bound <= best + 1e-9 <= rough.loss + 2e-9


def test_a_budget_that_nothing_keeps_is_refused() -> None:
    with pytest.raises(QuantizationError, match="smallest formats together take 7"):
        best_mix([[MixOption("a", 3, 0.0)], [MixOption("b", 4, 0.0)]], 6)


def test_a_byte_has_no_price_where_the_budget_does_not_bind() -> None:
    mix = best_mix([[MixOption("a", 3, 0.0), MixOption("b", 1, 1.0)]], 3)
    assert (mix.choice, mix.price) == ((0,), 0.0)
