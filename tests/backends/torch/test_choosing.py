"""The greedy choice on the device: torch's own of the vocabulary alone, whatever pads the logits behind it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.backends.models import VOCAB_SIZE
from tests.backends.torch.lowering import lowered

from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.graphs import DecodeBucket
from trtbench_lab.backends.torch.gpu.step import Steps, library_only


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("where", ["cpu", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_no_token_is_chosen_that_only_pads_the_vocabulary(where: str, padding: int, tmp_path: Path) -> None:
    """Ranks pad the vocabulary with rows of zeros, and zero beats the logits of models that are below it throughout."""
    device = "cuda" if where == "cuda" else "cpu"
    _, model = lowered("gpt2", tmp_path, device=device)
    weights = model.head.weights
    padded = torch.cat((weights.weight, weights.weight.new_zeros(padding, weights.in_features)))
    stored = replace(weights, weight=padded, out_features=VOCAB_SIZE + padding, bias=None)
    model = replace(model, head=replace(model.head, weights=stored))
    bucket = DecodeBucket(Steps(model, library_only), 3, 2, 16, [])
    bucket.begin(torch.tensor([3, 0]), torch.tensor([[1, 0], [2, 0]], dtype=torch.int32))
    assert bucket.logits.shape == (3, VOCAB_SIZE + padding)
    below = -30 - torch.rand(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    below[1, [5, VOCAB_SIZE - 1]] = -20.0  # the first of equals
    below[2, VOCAB_SIZE - 1] = -20.0
    bucket.logits[:, :VOCAB_SIZE] = below.to(device)
    with ops.interpreted() if where == "interpreter" else nullcontext():
        bucket.take(greedy=True)
    expected = below.argmax(1)
    assert expected[1:].tolist() == [5, VOCAB_SIZE - 1]
    assert bucket.ids.tolist() == expected.tolist()
    assert bucket.ring[0].tolist() == expected.tolist()
    assert bucket.positions.tolist() == [4, 1, -1]
