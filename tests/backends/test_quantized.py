"""Where each quantized checkpoint runs: every algorithm against its definition in NumPy, inside transformers' model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.models import PADDED, Driver, RandomModel, built_executor, random_model
from tests.backends.paged_driver import PagedDriver
from tests.backends.quantized_models import (
    IMPORTED,
    MIXED,
    RECIPES,
    defined_logits,
    imported_checkpoint,
    quantized_checkpoint,
    rounded_cache_logits,
)
from tests.ranks.direct_build import build_here

from trtbench_lab.backends.registry import backend
from trtbench_lab.engine import Engine
from trtbench_lab.errors import BuildError
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, ModelConfig, QuantConfig, SamplingConfig
from trtbench_lab.specs.quant import WEIGHT_ALGOS

TOKENS = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(5))
FAMILIES = ("gpt2", "llama")
SMALL = {
    "architecture": "GPTForCausalLM", "dtype": "float32", "vocab_size": 61, "max_position_embeddings": 32,
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_act": "gelu_new",
}  # fmt: skip


class Shelf:
    """Models and their quantized checkpoints, each made once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._models: dict[str, RandomModel] = {}

    def model(self, family: str) -> RandomModel:
        if family not in self._models:
            wide = {"n_layer": 2} if family == "gpt2" else {"num_hidden_layers": 2, "intermediate_size": 64}
            self._models[family] = random_model(family, self.folder / family / "hf", **wide)
        return self._models[family]

    def checkpoint(self, family: str, recipe: str) -> Path:
        path = self.folder / family / recipe
        if not path.is_dir():
            if recipe in IMPORTED:
                imported_checkpoint(self.model(family), path, IMPORTED[recipe])
            else:
                quantized_checkpoint(self.model(family), path, MIXED if recipe == "mixed" else RECIPES[recipe])
        return path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def run(executor) -> torch.Tensor:
    """A ragged way through the text: a prompt, a single token, the rest."""
    driver = Driver(executor, batch=2, capacity=9)
    return torch.cat([driver.step(TOKENS[:, :5]), driver.step(TOKENS[:, 5:6]), driver.step(TOKENS[:, 6:])], 1)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the logits' range."""
    return float((got - expected).abs().max() / (expected.max() - expected.min()))


@pytest.mark.parametrize("recipe", [*RECIPES, *IMPORTED, "mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_computes_the_definition(shelf, family, recipe, tmp_path):
    checkpoint = shelf.checkpoint(family, recipe)
    executor = built_executor("torch", "cpu", checkpoint, tmp_path, BuildConfig())
    expected = defined_logits(shelf.model(family), checkpoint, TOKENS)
    # Sums in another order; an input that a different last bit rounds to the neighbouring step moves logits by 1e-3.
    assert relative_error(run(executor), expected) <= 5e-3
    assert (run(executor) - expected).abs().median() <= 1e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize(
    ("family", "recipe"),
    [*(("gpt2", recipe) for recipe in (*RECIPES, *IMPORTED)), ("llama", "smooth channel token"), ("llama", "mixed")],
)
def test_onnxruntime_computes_the_definition(shelf, family, recipe, tmp_path):
    """At level 0 nothing is rounded that the algorithm does not round itself."""
    checkpoint = shelf.checkpoint(family, recipe)
    executor = built_executor("onnxruntime", "cpu", checkpoint, tmp_path, PADDED.replace(opt_level=0))
    expected = defined_logits(shelf.model(family), checkpoint, TOKENS)
    got = run(executor)
    assert relative_error(got, expected) <= 5e-3
    assert (got - expected).abs().median() <= 1e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize(
    ("family", "cache", "layers", "name"),
    [
        ("gpt2", "INT8", None, "torch"), ("llama", "FP8", None, "torch"),
        ("llama", "INT8", "smooth channel token", "torch"), ("gpt2", "FP8", "awq", "torch"),
        ("llama", "INT8", None, "onnxruntime"),
    ],
)  # fmt: skip
def test_a_quantized_cache_is_read_with_the_checkpoints_steps(shelf, family, cache, layers, name, tmp_path):
    recipe = {**(RECIPES[layers] if layers else {}), "kv_cache_quant_algo": cache}
    quantized_checkpoint(shelf.model(family), tmp_path / "checkpoint", recipe)
    executor = built_executor(name, "cpu", tmp_path / "checkpoint", tmp_path / "engine", BuildConfig())
    assert all(spec.dtype in ("int8", "float8_e4m3fn") for spec in executor.io if spec.name.startswith("kv_cache"))
    driver = PagedDriver(executor, num_rows=2, columns=1)
    rows = TOKENS.tolist()
    parts = [driver.step([row[begin:end] for row in rows]) for begin, end in ((0, 5), (5, 6), (6, 9))]
    got = torch.stack([torch.cat([part[row] for part in parts]) for row in range(2)])
    expected = rounded_cache_logits(shelf.model(family), tmp_path / "checkpoint", TOKENS)
    span = expected.max() - expected.min()
    assert relative_error(got, expected) <= 2e-2
    assert (got - expected).abs().median() <= 1e-3 * span
    # The steps are felt: without them logits are farther off than these.
    plain = defined_logits(shelf.model(family), tmp_path / "checkpoint", TOKENS)
    assert (plain - expected).abs().mean() > 3 * (got - expected).abs().mean()


@pytest.mark.parametrize("cache", ["INT8", "FP8"])
def test_an_engine_with_a_quantized_cache_generates(shelf, cache, tmp_path):
    quantized_checkpoint(shelf.model("llama"), tmp_path / "checkpoint", {"kv_cache_quant_algo": cache})
    with ModelRunner.from_dir(
        build_here(tmp_path / "checkpoint", BuildConfig(backend="torch"), tmp_path / "engine")
    ) as runner:
        found = runner.generate(TOKENS.tolist(), sampling_config=SamplingConfig(max_new_tokens=4, end_id=-1))
    assert found["output_ids"].shape[-1] == 9 + 4


def test_the_table_of_the_documentation_names_every_algorithm_and_these_tests_run_it():
    text = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text()
    table = text.partition("## Where it runs")[2].partition("## What it costs")[0]
    tested = {recipe["quant_algo"] for recipe in (*RECIPES.values(), *IMPORTED.values(), MIXED)}
    assert tested == {algo.value for algo in WEIGHT_ALGOS}
    for algo in WEIGHT_ALGOS:
        assert ("SmoothQuant" if algo.is_smoothquant else algo.value) in table
    cached = ModelConfig(**SMALL, quantization=QuantConfig(kv_cache_quant_algo="FP8"))
    with pytest.raises(BuildError, match="FP8"):
        backend("onnxruntime").resolve(cached, BuildConfig())


@pytest.mark.parametrize("algo", ["FP8", "W4A8_AWQ"])
def test_an_emulation_says_so(shelf, algo, tmp_path):
    """In the notes kept with an engine, its summary, its inspection, and what goes with each result."""
    checkpoint = shelf.checkpoint("gpt2", "fp8" if algo == "FP8" else "w4a8")
    engine = Engine.from_dir(build_here(checkpoint, BuildConfig(backend="onnxruntime"), tmp_path / "engine"))
    assert any("FP8 emulated" in note for note in engine.config.notes)
    assert engine.summary()["quantization"] == f"{algo} (FP8 emulated)"
    assert engine.inspect().quantization == f"{algo} (FP8 emulated)"
    assert any("FP8 emulated" in note for note in engine.emulations)
