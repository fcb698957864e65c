"""Hidden states layer by layer: against Hugging Face's own, in bounded memory, by halving, and bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.backends.models import random_model

from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.errors import EvaluationError
from trtbench_lab.evaluation.definition import definition_runner
from trtbench_lab.evaluation.layers import compare_layers
from trtbench_lab.evaluation.repeat import deterministic_mode, repeats_bit_for_bit
from trtbench_lab.evaluation.taps import output_names, tap_of
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.reports.figures import figures_for, layer_error_values, layer_errors
from trtbench_lab.results import Result
from trtbench_lab.runtime import HFRunner

IDS = [list(range(3, 23)), list(range(40, 47))]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def sides(request, tmp_path_factory):
    """A plain checkpoint by definition, and Hugging Face, of the same weights."""
    folder = tmp_path_factory.mktemp(request.param)
    depth = {"n_layer": 2} if request.param == "gpt2" else {"num_hidden_layers": 2}
    model = random_model(request.param, folder / "hf", **depth)
    source = open_hf_folder(model.folder)
    convert(source, folder / "plain", config=config_from_source(source, "float32"))
    return definition_runner(folder / "plain"), HFRunner(model.hf, name="hf")


def disturbed(hf: HFRunner, path: str) -> HFRunner:
    """A copy whose module at `path` gives one and a half times as much."""
    other = copy.deepcopy(hf.model)
    with torch.no_grad():
        other.get_submodule(path).weight.mul_(1.5)
    return HFRunner(other, name="disturbed")


def layers_of(hf: HFRunner) -> str:
    return "model.layers" if hasattr(hf.model, "model") else "transformer.h"


def test_hidden_states_are_those_that_transformers_gives(sides) -> None:
    runner, hf = sides
    tap = tap_of(runner)
    names = [f"transformer.layers.{n}" for n in range(tap.num_layers)]
    found = tap.read(IDS[0], ["embedding", *names[:-1], "logits"])
    with torch.no_grad():
        given = hf.model(torch.tensor([IDS[0]]), output_hidden_states=True)
    expected = [*(state[0] for state in given.hidden_states[:-1]), given.logits[0]]  # the last one is normed
    for name, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_equal_sides_pass_and_little_memory_gives_the_same_numbers(sides) -> None:
    runner, hf = sides
    result = compare_layers(runner, hf, IDS, tolerance=1e-4)
    assert [entry.name for entry in result.layers] == list(output_names(2))
    assert result.passed
    assert result.deterministic is True
    little = compare_layers(runner, hf, IDS, tolerance=1e-4, capture_bytes=1)
    assert little.layers == result.layers
    assert little.passes > result.passes
    assert little.peak_capture_bytes < result.peak_capture_bytes
    assert Result.from_dict(result.to_dict()) == result


def test_a_disturbed_end_is_found_behind_equal_layers(sides) -> None:
    runner, hf = sides
    norm = "model.norm" if hasattr(hf.model, "model") else "transformer.ln_f"
    result = compare_layers(runner, disturbed(hf, norm), IDS)
    assert (result.first_beyond, result.exit_code) == ("logits", 1)
    with pytest.raises(EvaluationError, match="logits is the first output beyond"):
        result.check()


@pytest.mark.parametrize("broken", [0, 1])
def test_halving_finds_the_layer_that_was_broken(broken: int, sides) -> None:
    runner, hf = sides
    down = "mlp.down_proj" if hasattr(hf.model, "model") else "mlp.c_proj"
    other = disturbed(hf, f"{layers_of(hf)}.{broken}.{down}")
    result = compare_layers(runner, other, IDS, bisect=True)
    assert result.first_beyond == f"transformer.layers.{broken}"
    assert result.passes <= 3
    whole = compare_layers(runner, other, IDS)
    assert whole.first_beyond == f"transformer.layers.{broken}.mlp"


def test_what_cannot_be_compared_is_said(sides) -> None:
    runner, hf = sides
    with pytest.raises(EvaluationError, match="no tokens"):
        compare_layers(runner, hf, [[]])
    deeper = HFRunner(copy.deepcopy(hf.model))
    layers = deeper.model.get_submodule(layers_of(hf))
    layers.append(copy.deepcopy(layers[0]))
    with pytest.raises(EvaluationError, match="layers"):
        compare_layers(runner, deeper, IDS)


def test_deterministic_mode_gives_equal_bits_and_leaves_no_trace(sides) -> None:
    runner, _ = sides
    with deterministic_mode():
        assert torch.are_deterministic_algorithms_enabled()
        assert repeats_bit_for_bit(runner, IDS[0])
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_heat_map_has_a_cell_for_each_output(sides) -> None:
    result = compare_layers(*sides, IDS)
    figure = layer_errors(result)
    grid = figure.data[0]
    assert sum(cell is not None for row in grid.customdata for cell in row if cell != "n/a") == len(result.layers)
    assert layer_error_values(result)[0] == "relative_error"
    assert len(figures_for(result)) == 1
