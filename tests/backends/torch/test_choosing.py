"""The greedy choice on the device, torch's own of the vocabulary alone; and the session, which is on its own GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.backends.models import VOCAB_SIZE
from tests.backends.torch.lowering import lowered

from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.graphs import DecodeBucket
from trtbench_lab.backends.torch.gpu.memory_plan import CachePlan
from trtbench_lab.backends.torch.gpu.session import FusedSession
from trtbench_lab.backends.torch.gpu.step import Steps, library_only
from trtbench_lab.errors import RequestError

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("name", ["greedy", "forward", "forward_eagerly", "take", "start", "close"])
def test_a_session_runs_on_its_own_gpu_whichever_is_the_current_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current GPU, and an event is recorded there, whatever GPU holds the tensors."""
    entered: list[torch.device] = []

    @contextmanager
    def entering(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield
        entered.append(CPU)

    def waited(device: torch.device) -> None:
        assert entered == [device] == [torch.device("cuda", 1)]
        raise RuntimeError("the device has failed")

    monkeypatch.setattr(torch.cuda, "device", entering)
    monkeypatch.setattr(torch.cuda, "synchronize", waited)
    plan = CachePlan(16, 2, 5, 1, torch.float32, "")
    session = FusedSession.__new__(FusedSession)
    session.device, session.plan, session._bucket, session.request_number = torch.device("cuda", 1), plan, None, 0
    session._buckets, session._pools = {}, []
    if name == "close":
        session.close()  # what a failed device still holds is let go of all the same
        assert entered == [torch.device("cuda", 1), CPU]
        return
    arguments = {"take": (torch.zeros(1),), "start": ([[0] * 100], 1)}.get(name, ())
    with pytest.raises(RequestError, match=r"No request was started|pool has 4"):
        getattr(session, name)(*arguments)
    assert entered == [torch.device("cuda", 1)]
