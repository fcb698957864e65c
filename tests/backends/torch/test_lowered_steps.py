"""The lowered steps give Hugging Face's logits: every family, prompts in pieces, then decoding, over paged caches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.models import FAMILIES, VOCAB_SIZE, RandomModel
from tests.backends.torch.lowering import integers, lowered, packed_prompts

from trtbench_lab.backends.torch.gpu import ops
from trtbench_lab.backends.torch.gpu.attention import DecodeTiles, decode_scratch
from trtbench_lab.backends.torch.gpu.lowered import LoweredModel
from trtbench_lab.backends.torch.gpu.step import Chooser, Steps, library_only
from trtbench_lab.backends.torch.gpu.tuning import ChoiceTable

# ‖logits − Hugging Face's float32‖ ÷ ‖·‖. float32: some hundred sums of rounded products, each 6e-8. The 16-bit types
# round each activation to 11 and 8 bits (5e-4, 4e-3), and these models, whose weights are 15 × as wide as usual so that
# every token matters, magnify that: the library's own products on a CPU are off by up to 1.3e-2 and 0.15 in ten draws.
# Fresh tokens are drawn in every run, so four times that is allowed in float16 and three times in bfloat16.
BOUNDS = {torch.float32: 2e-5, torch.float16: 5e-2, torch.bfloat16: 0.45}
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.cpu() - theirs).norm() / theirs.norm())


def check_steps(
    hf: RandomModel,
    model: LoweredModel,
    *,
    block: int = 8,
    splits: int = 2,
    choose: Chooser = library_only,
    tile: int = 16,
    first: tuple[int, ...] = (9, 4, 8),
    second: tuple[int, ...] = (12, 5, 9),
    decoded: int = 3,
) -> None:
    """Two pieces of three prompts, then decode steps; poisoned caches, so that a key seen by mistake shows."""
    device, config = model.device, model.config
    generator = torch.Generator().manual_seed(torch.seed() % 2**31)
    rows = len(first)
    tokens = torch.randint(0, VOCAB_SIZE, (rows, max(second) + decoded), generator=generator)
    theirs = hf.logits(tokens)
    columns = -(-tokens.shape[1] // block)
    order = 1 + torch.randperm(rows * columns, generator=generator).to(torch.int32)  # blocks in no order
    tables = order.view(rows, columns).to(device)
    pools = [
        torch.full((rows * columns + 1, 2, config.kv_heads, block, config.head_width), 1e4, device=device).to(
            model.dtype
        )
        for _ in model.layers
    ]
    steps = Steps(model, choose)
    bound = BOUNDS[model.dtype]
    with torch.inference_mode():
        logits = steps.packed(packed_prompts(tokens, [(0, end) for end in first], tables, device), pools, None)
        assert distance(logits, torch.stack([theirs[r, end - 1] for r, end in enumerate(first)])) < bound
        pieces = list(zip(first, second, strict=True))
        logits = steps.packed(packed_prompts(tokens, pieces, tables, device), pools, None)
        assert distance(logits, torch.stack([theirs[r, end - 1] for r, end in enumerate(second)])) < bound
        scratch = decode_scratch(rows + 1, steps.heads, DecodeTiles(splits, tile), device)
        # One row of the bucket is empty: it must touch nothing.
        wide = torch.cat((tables, torch.zeros_like(tables[:1])))
        for step in range(decoded):
            positions = [end + step for end in second]
            ids = integers([int(tokens[r, p]) for r, p in enumerate(positions)] + [0], device)
            logits = steps.decode(ids, integers([*positions, -1], device), wide, pools, scratch)[:rows]
            assert distance(logits, torch.stack([theirs[r, p] for r, p in enumerate(positions)])) < bound
    assert not bool(scratch.counts.any())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_form_of_every_family(family: str, tmp_path: Path) -> None:
    hf, model = lowered(family, tmp_path)
    check_steps(hf, model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_the_kernels_in_the_interpreter(family: str, tmp_path: Path) -> None:
    """Rotation, cache writing, window, groups and the combination of parts, by the very kernels a GPU compiles."""
    hf, model = lowered(family, tmp_path)
    with ops.interpreted():
        check_steps(hf, model, first=(3, 1), second=(6, 2), decoded=1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_type_on_a_gpu(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    hf, model = lowered(family, tmp_path, device="cuda", dtype=dtype)
    # 40 tokens a block: a contiguous cache, one piece a row, whose size is no power of two.
    for block, splits in ((16, 1), (16, 4), (64, 2), (40, 2)):
        check_steps(
            hf, model, block=block, splits=splits, choose=ChoiceTable().choose, first=(15, 1, 16), second=(31, 17, 33)
        )


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, 64])
def test_batches_and_lengths_around_the_edges_of_blocks_on_a_gpu(rows: int, tmp_path: Path) -> None:
    hf, model = lowered("llama", tmp_path, device="cuda", dtype=torch.float16)
    first = tuple((15, 16, 17, 1, 31, 32, 33)[row % 7] for row in range(rows))
    check_steps(hf, model, block=16, splits=4, first=first, second=tuple(end + 1 for end in first))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantized_cache_costs_what_its_steps_are(dtype: torch.dtype, device: str, tmp_path: Path) -> None:
    """8 bits a value: the error of a key or value is half a step of INT8, 2⁻⁴ of a value in FP8."""
    hf, model = lowered("llama", tmp_path, device=device)
    config, steps = model.config, Steps(model, library_only)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 14), generator=torch.Generator().manual_seed(3))
    theirs = hf.logits(tokens)
    tables = integers([1, 2, 3, 4], model.device).view(2, 2)
    shape = (5, 2, config.kv_heads, 8, config.head_width)
    pools = [torch.zeros(shape, device=device).to(dtype) for _ in model.layers]
    scale = 0.06 if dtype == torch.int8 else 0.5
    for layer in model.layers:
        object.__setattr__(layer, "kv_scale", scale)
    with torch.inference_mode():
        steps.packed(packed_prompts(tokens, [(0, 12), (0, 9)], tables, model.device), pools, None)
        scratch = decode_scratch(2, steps.heads, DecodeTiles(2, 16), model.device)
        ids, positions = [int(tokens[0, 12]), int(tokens[1, 9])], [12, 9]
        logits = steps.decode(integers(ids, model.device), integers(positions, model.device), tables, pools, scratch)
    found = distance(logits, torch.stack([theirs[0, 12], theirs[1, 9]]))
    assert 1e-6 < found < (0.1 if dtype == torch.int8 else 0.25)


@pytest.mark.gpu
def test_the_same_step_twice_gives_the_same_bits(tmp_path: Path) -> None:
    _, model = lowered("llama", tmp_path, device="cuda", dtype=torch.bfloat16)
    steps = Steps(model, ChoiceTable().choose)
    config, device = model.config, model.device
    generator = torch.Generator(device=device).manual_seed(torch.seed() % 2**31)
    shape = (33, 2, config.kv_heads, 16, config.head_width)
    filled = [torch.randn(shape, device=device, generator=generator).to(model.dtype) for _ in model.layers]
    tables = torch.arange(1, 33, dtype=torch.int32, device=device).view(8, 4)
    ids = torch.randint(0, VOCAB_SIZE, (8,), dtype=torch.int32, device=device, generator=generator)
    positions = torch.tensor([0, 1, 15, 16, 17, 40, 62, 63], dtype=torch.int32, device=device)
    scratch = decode_scratch(8, steps.heads, DecodeTiles(4, 16), device)
    with torch.inference_mode():
        runs = [
            steps.decode(ids, positions, tables, [pool.clone() for pool in filled], scratch).clone() for _ in range(20)
        ]
    assert all(torch.equal(runs[0], run) for run in runs[1:])
