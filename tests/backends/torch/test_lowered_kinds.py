"""Every kind of quantized linear layer in the lowered steps, against its definition in NumPy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.models import VOCAB_SIZE, random_model
from tests.backends.quantized_models import MIXED, RECIPES, defined_logits, quantized_checkpoint
from tests.backends.torch.lowering import integers, packed_prompts

from trtbench_lab.backends.torch.fused import resolve_fused
from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles, decode_scratch
from trtbench_lab.backends.torch.gpu.lowered import LoweredModel, Product, _stacked, lower
from trtbench_lab.backends.torch.gpu.step import Chooser, Steps, library_only
from trtbench_lab.backends.torch.gpu.tuning import ChoiceTable, problem_for
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.network.loading import assign_tensors, cast_floats
from trtbench_lab.plugins.matmul.choice import Choice
from trtbench_lab.specs import BuildConfig, ModelConfig, PluginConfig, QuantConfig

ALL = {**RECIPES, "mixed": MIXED}
# ‖logits − defined‖ ÷ ‖·‖. Sums in another order (1e-7) move an input across the edge between two integers or two FP8
# numbers now and then, which is a whole step: 1/127 of the largest input, or 2⁻³ of the input itself. The 16-bit types
# round every activation as well, see `test_lowered_steps`; the rounding to 8 bits after it magnifies that.
BOUNDS = {torch.float32: 5e-2, torch.float16: 0.2, torch.bfloat16: 0.6}
FP8_BOUNDS = {torch.float32: 0.25, torch.float16: 0.5, torch.bfloat16: 0.8}
"""An FP8 step is 2⁻³ of a value, which these models magnify; the test of single products below is the sharp one."""
PLAIN_BOUND = 5e-5
"""Of float32 where no input is rounded."""


def lowered_quantized(
    recipe: str, family: str, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[LoweredModel, Decoder, torch.Tensor, torch.Tensor]:
    """Return the lowered model, the decoder it shares weights with, tokens, and their logits by definition."""
    model = random_model(family, folder / "hf", **({"intermediate_size": 64} if family == "llama" else {}))
    quantized_checkpoint(model, folder / "checkpoint", ALL[recipe])
    checkpoint = open_checkpoint(folder / "checkpoint")
    decoder = Decoder(checkpoint.config, checkpoint.config.mapping)
    weights = checkpoint.rank(0)
    assign_tensors(decoder, {name: weights[name].clone() for name, _ in decoder.named_parameters()})
    cast_floats(decoder, dtype)
    decoder.to(device)
    tokens = torch.randint(0, VOCAB_SIZE, (3, 14), generator=torch.Generator().manual_seed(torch.seed() % 2**31))
    return lower(decoder), decoder, tokens, defined_logits(model, folder / "checkpoint", tokens)


def check(model: LoweredModel, tokens: torch.Tensor, defined: torch.Tensor, bound: float, choose: Chooser) -> None:
    """Prompts, then two decode steps."""
    device, config, rows = model.device, model.config, tokens.shape[0]
    tables = torch.arange(1, 1 + rows * 2, dtype=torch.int32, device=device).view(rows, 2)
    shape = (rows * 2 + 1, 2, config.kv_heads, 8, config.head_width)
    pools = [torch.full(shape, 1e4, device=device).to(model.dtype) for _ in model.layers]
    steps, ends = Steps(model, choose), (12, 5, 9)[:rows]
    scratch = decode_scratch(rows, steps.heads, DecodeTiles(2, 16), device)
    found, wanted = [], []
    with torch.inference_mode():
        found.append(steps.packed(packed_prompts(tokens, [(0, end) for end in ends], tables, device), pools, None))
        wanted.append(torch.stack([defined[r, end - 1] for r, end in enumerate(ends)]))
        for step in range(2):
            at = [end + step for end in ends]
            ids = integers([int(tokens[r, p]) for r, p in enumerate(at)], device)
            found.append(steps.decode(ids, integers(at, device), tables, pools, scratch).clone())
            wanted.append(torch.stack([defined[r, p] for r, p in enumerate(at)]))
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours.cpu() - theirs).norm() / theirs.norm()) < bound


def bound_of(recipe: str, dtype: torch.dtype) -> float:
    rounded = any(word in recipe for word in ("smooth", "fp8", "w4a8", "mixed"))
    if "fp8" in recipe or "w4a8" in recipe:
        return FP8_BOUNDS[dtype]
    return PLAIN_BOUND if dtype == torch.float32 and not rounded else BOUNDS[dtype]


@pytest.mark.parametrize("recipe", ALL)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_library_form_of_every_kind(family: str, recipe: str, tmp_path: Path) -> None:
    model, _, tokens, defined = lowered_quantized(recipe, family, tmp_path)
    check(model, tokens, defined, bound_of(recipe, torch.float32), library_only)


@pytest.mark.parametrize("recipe", ["smooth channel token", "gptq with zeros", "w4a8", "fp8"])
def test_the_kernels_in_the_interpreter(recipe: str, tmp_path: Path) -> None:
    model, _, tokens, defined = lowered_quantized(recipe, "llama", tmp_path)
    with ops.interpreted():
        check(model, tokens[:1], defined[:1], bound_of(recipe, torch.float32), library_only)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recipe", ALL)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_kind_on_a_gpu(family: str, recipe: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, _, tokens, defined = lowered_quantized(recipe, family, tmp_path, "cuda", dtype)
    for choose in (ChoiceTable().choose, library_only):
        check(model, tokens, defined, bound_of(recipe, dtype), choose)


def check_products(model: LoweredModel, decoder: Decoder, bound: float, counts: tuple[int, ...]) -> None:
    """One product at a time, so that nothing hides behind a later rounding, against the decoder's own modules."""
    for lowered, layer in zip(model.layers, decoder.transformer.layers, strict=True):
        for name, linear, norm in (
            ("qkv", layer.attention.qkv, layer.input_layernorm),
            ("fc", None, layer.post_layernorm),
            ("dense", layer.attention.dense, None),
            ("proj", layer.mlp.proj, None),
        ):
            product: Product = getattr(lowered, name)
            given = {"norm": {"qkv": lowered.input_norm, "fc": lowered.post_norm}.get(name)}
            given["act"] = "silu" if linear is None else None
            for rows in counts:
                x = torch.randn(rows, product.weights.in_features, device=model.device).to(model.dtype)
                read = x if norm is None else norm(x)
                if linear is None:
                    theirs = layer.mlp.gate(read) * torch.nn.functional.silu(layer.mlp.fc(read))
                else:
                    theirs = linear(read)
                for choice in {ChoiceTable().choose(name, product, rows), Choice("library")}:
                    with torch.inference_mode():
                        ours = ops.linear(x, product, choice, Steps(model, library_only).workspace, **given)
                        if product.partner is not None:
                            ours *= ops.linear(x, product.partner, Choice("library"), None, norm=given["norm"])
                    found = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
                    assert found < bound, (name, rows, choice)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ALL)
def test_every_product_at_every_count_of_rows_on_a_gpu(recipe: str, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: results differ by 2⁻⁸ of themselves, and a moved input by a step of its own."""
    model, decoder, _, _ = lowered_quantized(recipe, "llama", tmp_path, "cuda", torch.bfloat16)
    check_products(model, decoder, 2e-2, (1, 3, 16, 40, 100, 300))


FOREIGN = {
    "fp8 channel token": QuantConfig(quant_algo="FP8_PER_CHANNEL_PER_TOKEN"),
    "act-order": QuantConfig(quant_algo="W4A16_GPTQ", group_size=32, has_zero_point=True, input_order=True),
    "8-bit gptq": QuantConfig(quant_algo="W8A16", group_size=32, has_zero_point=True),
}
"""Kinds that only other projects write."""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("recipe", FOREIGN)
def test_the_kinds_that_others_write(recipe: str, device: str) -> None:
    config = ModelConfig(
        architecture="LlamaForCausalLM", dtype="bfloat16", vocab_size=96, max_position_embeddings=64, hidden_size=64,
        intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, hidden_act="silu", norm_type="rmsnorm",
        gated_mlp=True, qkv_bias=False, dense_bias=False, mlp_bias=False, position_embedding_type="rope_gpt_neox",
        quantization=FOREIGN[recipe],
    )  # fmt: skip
    decoder = Decoder(config, config.mapping)
    for module in decoder.modules():
        own = module._parameters
        for name, value in own.items():
            if value is None:
                continue
            if name == "input_order":
                value.data = torch.randperm(len(value)).to(torch.int32)
            elif value.dtype == torch.int8:
                value.data.random_(-128, 128)
            elif value.dtype == torch.float8_e4m3fn:
                value.data = torch.randn(value.shape).mul(40).to(torch.float8_e4m3fn)
            elif "scal" in name:
                value.data.uniform_(0.01, 0.02)
            else:
                value.data.normal_(1.0 if value.ndim == 1 else 0.0, 0.3)
        if "zero" in own:
            scale, points = own["weights_scaling_factor"], own["zero"]
            points.data = (-torch.randint(-8, 129, points.shape) * scale).to(points.dtype)
    cast_floats(decoder, torch.bfloat16 if device == "cuda" else torch.float32)
    decoder.to(device)
    check_products(lower(decoder), decoder, 2e-2 if device == "cuda" else 1e-3, (1, 3, 16, 40, 300))


def test_the_plugin_of_matrix_products_is_a_switch(tmp_path: Path) -> None:
    """Off: dense products are the library's whatever was timed. Where nobody says, a GPU engine chooses by timing."""
    model, _, _, _ = lowered_quantized("mixed", "llama", tmp_path)
    fast = Choice("matvec", 1, 4)
    products = {name: getattr(model.layers[0], name) for name in ("dense", "fc")}  # plain; INT8 weights
    table = ChoiceTable({problem_for(product, 1).key: fast for product in products.values()})
    assert [products[name].weights.kind for name in products] == ["dense", "int8"]
    assert [table.choose(name, product, 1) for name, product in products.items()] == [fast, fast]
    assert [table.choose_without_gemm(name, product, 1) for name, product in products.items()] == [
        Choice("library"), fast,
    ]  # fmt: skip
    where = {"dtypes": ("bfloat16",), "reason": "", "device": torch.device("cuda")}
    for plugins, expected in ((PluginConfig(), "auto"), (PluginConfig(gemm_plugin="disable"), "disable")):
        build = BuildConfig(backend="torch", plugin_config=plugins, compute_dtype="bfloat16")
        resolved, notes = resolve_fused(model.config, build, **where)
        assert resolved.plugin_config.gemm_plugin == expected
        assert any(note.startswith("gemm_plugin") for note in notes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_halves_that_lie_together_are_stacked_without_a_copy(dtype: torch.dtype) -> None:
    both = torch.randint(-100, 100, (24, 16)).to(dtype)
    first, second = both[:16], both[16:]
    joined, copied = _stacked(first, second), _stacked(first.clone(), second.clone())
    assert joined.data_ptr() == first.data_ptr()
    assert copied.data_ptr() != first.data_ptr()
    turned = _stacked(second, first).float().roll(-8, 0)
    for found in (joined.float(), copied.float(), turned, _stacked(both[:8], both[8:]).float()):
        assert torch.equal(found, both.float())
    assert torch.equal(_stacked(both[:8], both[16:]).float(), both.float()[[*range(8), *range(16, 24)]])
