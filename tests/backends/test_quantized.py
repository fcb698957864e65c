"""Where each quantized checkpoint runs: every algorithm against its definition in NumPy, inside Hugging Face's model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.models import PADDED, Driver, RandomModel, built_executor, random_model
from tests.backends.quantized_models import MIXED, RECIPES, defined_logits, quantized_checkpoint

from trtbench_lab.specs import BuildConfig

TOKENS = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(5))
FAMILIES = ("gpt2", "llama")


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


@pytest.mark.parametrize("recipe", [*RECIPES, "mixed"])
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
    [("gpt2", recipe) for recipe in RECIPES] + [("llama", name) for name in ("awq", "smooth channel token", "mixed")],
)
def test_onnxruntime_computes_the_definition(shelf, family, recipe, tmp_path):
    """At level 0 nothing is rounded that the algorithm does not round itself."""
    checkpoint = shelf.checkpoint(family, recipe)
    executor = built_executor("onnxruntime", "cpu", checkpoint, tmp_path, PADDED.replace(opt_level=0))
    expected = defined_logits(shelf.model(family), checkpoint, TOKENS)
    got = run(executor)
    assert relative_error(got, expected) <= 5e-3
    assert (got - expected).abs().median() <= 1e-4 * (expected.max() - expected.min())
