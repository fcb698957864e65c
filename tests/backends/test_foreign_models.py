"""Folders that other tools quantized, from file to logits: Hugging Face's with the weights that each format defines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.backends.models import PADDED, Driver, built_executor
from tests.intake.quantized import writers
from tests.quantization.test_repacking import CASES
from transformers import AutoModelForCausalLM

from trtbench_lab.quantization.repacking import repack

TOKENS = torch.randint(0, 96, (2, 7), generator=torch.Generator().manual_seed(3))
# Weights alone are quantized in these: the logits are those of the dense weights, but for the order of sums.
WEIGHT_ONLY = ("gptq", "gptq, act-order", "gptq, 8 bits", "gptq, 3 bits", "awq", "compressed, 8 bits a channel")


def defined_logits(folder: Path, defined: dict[str, np.ndarray]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_config(writers.LLAMA).float().eval()
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= {f"{layer}.weight": torch.as_tensor(weight).float() for layer, weight in defined.items()}
    model.load_state_dict(tensors, strict=False)
    assert {name for name, _ in model.named_parameters()} <= set(tensors)
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
@pytest.mark.parametrize("case", WEIGHT_ONLY)
def test_logits_of_a_foreign_model(case: str, backend: str, tmp_path: Path):
    make, quantization, _ = CASES[case]
    defined = writers.write_folder(tmp_path / "model", make, quantization)
    repack(tmp_path / "model", tmp_path / "checkpoint")
    options = PADDED.replace(compute_dtype="float32", opt_level=0)
    executor = built_executor(backend, "cpu", tmp_path / "checkpoint", tmp_path / "engine", options)
    driver = Driver(executor, batch=2, capacity=7)
    got = torch.cat([driver.step(TOKENS[:, :4]), driver.step(TOKENS[:, 4:5]), driver.step(TOKENS[:, 5:])], 1)
    expected = defined_logits(tmp_path / "model", defined)
    # The formats' dense weights are rounded to float16 (2⁻¹¹ of each); the engine multiplies exact products of integer
    # and step. Seen: 1e-3 to 4e-3 of the range; a wrong zero point or order of columns gives more than 0.3.
    assert (got - expected).abs().max() <= 1e-2 * (expected.max() - expected.min())
