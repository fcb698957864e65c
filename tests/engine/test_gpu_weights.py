"""gpu_weights_percent: engines that stream weights are told how many stay, all others refuse in a sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab.backends.tensorrt.weight_streaming import apply_budget
from trtbench_lab.engine.folder import Engine
from trtbench_lab.engine.streaming import streaming_options
from trtbench_lab.errors import RequestError, SpecError
from trtbench_lab.specs import BuildConfig, Mapping
from trtbench_lab.specs.requests import BenchSpec, CompareSpec, RunSpec, SummarizeSpec


def config(backend: str = "tensorrt", ranks: int = 1, **options: Any) -> Any:
    """Stand for an engine's config.json: what is asked of it."""
    model = SimpleNamespace(mapping=Mapping(world_size=ranks, tp_size=ranks), architecture="LlamaForCausalLM")
    build = BuildConfig(backend=backend, **{"weight_streaming": backend == "tensorrt", **options})
    return SimpleNamespace(backend=backend, build_config=build, pretrained_config=model)


@pytest.mark.parametrize("share", [None, 1, 1.0])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "tensorrt"])
def test_all_weights_on_the_gpu_is_what_every_engine_does(share: float | None, backend: str) -> None:
    assert streaming_options(config(backend), share, "engine") == {}


@pytest.mark.parametrize(
    ("engine", "sentence", "remedy"),
    [
        (config("torch"), "torch backend, which keeps all weights", "Leave gpu_weights_percent out"),
        (config("onnxruntime"), "onnxruntime backend, which keeps all", "quantized weights"),
        (config(weight_streaming=False), "not built for weight streaming", "--weight_streaming"),
        (config(ranks=2), "several ranks", "Engine.executor"),
    ],
)
def test_engines_whose_weights_cannot_stream_refuse(engine: Any, sentence: str, remedy: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        streaming_options(engine, 0.5, "engine")
    assert remedy in str(caught.value.remedy)
    assert caught.value.where == "gpu_weights_percent"


@pytest.mark.parametrize("share", [-0.1, 1.5, 50, float("nan")])
def test_shares_that_cannot_be(share: float) -> None:
    with pytest.raises(RequestError, match="no share of the weights"):
        streaming_options(config(), share, "engine")


class Loads:
    """Takes the place of a backend: says what it was asked to load."""

    backend = "tensorrt"

    def load(self, directory: Path, rank: int, described: Any, **options: Any) -> dict[str, Any]:
        return options


def test_the_share_reaches_the_backend_s_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_rank", "check_fit"):
        monkeypatch.setattr(f"trtbench_lab.engine.folder.{name}", lambda *_: None)
    builder: Any = Loads()
    engine = Engine(Path("engine"), config(), builder=builder).with_gpu_weights(0.25)
    loaded: Any = engine.executor(0)
    assert loaded == {"device": None, "weight_streaming_budget": "25%"}
    own: Any = engine.executor(0, weight_streaming_budget="auto")  # what is given at the call goes first
    assert own["weight_streaming_budget"] == "auto"


@given(share=st.floats(0, 0.999), sizes=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3))
def test_every_plan_keeps_that_share_of_its_weights(share: float, sizes: list[int]) -> None:
    budget = streaming_options(config(), share, "engine")["weight_streaming_budget"]
    plans = [SimpleNamespace(streamable_weights_size=size, weight_streaming_budget_v2=None) for size in sizes]
    apply_budget(plans, budget, where="engine")
    for plan, size in zip(plans, sizes, strict=True):
        # The share is handed on with six digits, and bytes are whole.
        assert abs(plan.weight_streaming_budget_v2 - share * size) <= 1e-5 * share * size + 1
        assert 0 <= plan.weight_streaming_budget_v2 <= size


@pytest.mark.parametrize("spec", [RunSpec, CompareSpec, SummarizeSpec, BenchSpec])
def test_every_verb_that_runs_an_engine_takes_it(spec: type) -> None:
    made = spec(engine_dir="engine", gpu_weights_percent=0.5)
    assert made.gpu_weights_percent == 0.5
    assert spec(engine_dir="engine").gpu_weights_percent is None
    with pytest.raises(SpecError, match="gpu_weights_percent"):
        spec(engine_dir="engine", gpu_weights_percent=50)
