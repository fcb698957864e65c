"""Single operators, as networks of the bindings' own API: what no engine of ours uses yet, or must know exactly."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .....errors import EngineError
from ...bindings_check import created, tensorrt
from ...builder_config import network_flags
from ...logger import make_logger
from .models import Tried, _say
from .sequences import relative_difference
from .single import SingleEngine

Populate = Callable[[Any, Any], None]


class OperatorBuild:
    """Builds plans of tiny networks.

    Attributes
    ----------
    trt, builder
        The bindings and a builder.
    """

    def __init__(self) -> None:
        self.trt = tensorrt()
        self.logger = make_logger(self.trt, _say)
        trt, logger = self.trt, self.logger
        self.builder = created(lambda: trt.Builder(logger), "a builder")

    def plan(self, populate: Populate, *, timings: bytes | None = None, no_miss: bool = False) -> tuple[Any, bytes]:
        """Return the serialized plan of the network that `populate` makes, and the timing cache after it.

        Parameters
        ----------
        populate
            Gets the bindings and an empty network.
        timings
            A timing cache to begin with.
        no_miss
            Fail where a kernel is not in it.
        """
        trt, builder = self.trt, self.builder
        network = created(lambda: builder.create_network(network_flags(trt)), "a network")
        populate(trt, network)
        config = created(builder.create_builder_config, "a builder configuration")
        cache = config.create_timing_cache(timings or b"")
        config.set_timing_cache(cache, False)
        if no_miss:
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
        memory = builder.build_serialized_network(network, config)
        if memory is None:
            said = self.logger.groups.errors
            raise EngineError(f"TensorRT does not build the network: {said[0] if said else 'without a word'}")
        cache = config.get_timing_cache()
        return memory, bytes(memoryview(cache.serialize()))


def try_key_value_lengths(folder: Path, *, dtype: str, head_size: int) -> Tried:
    """Attend over padded caches with `key_value_lengths` and garbage past each row's length."""
    batch, heads, kv_heads, capacity = 2, 8, 2, 64
    lengths = torch.tensor([37, 9], dtype=torch.int32)
    generator = torch.Generator().manual_seed(1)
    kind = getattr(torch, dtype)
    query = torch.randn(batch, heads, 1, head_size, generator=generator) * head_size**-0.5
    key, value = (3 * torch.randn(batch, kv_heads, capacity, head_size, generator=generator) for _ in range(2))
    key, value, query = key.to(kind), value.to(kind), query.to(kind)
    expected = torch.empty(batch, heads, 1, head_size)
    for row, length in enumerate(lengths.tolist()):
        keys = key[row, :, :length].float().repeat_interleave(heads // kv_heads, 0)
        values = value[row, :, :length].float().repeat_interleave(heads // kv_heads, 0)
        weights = (query[row].float() @ keys.mT).softmax(-1)
        expected[row] = weights @ values

    def populate(trt: Any, network: Any) -> None:
        half = trt.DataType.HALF if dtype == "float16" else trt.DataType.BF16
        q = network.add_input("query", half, (batch, heads, 1, head_size))
        k = network.add_input("key", half, (batch, kv_heads, capacity, head_size))
        v = network.add_input("value", half, (batch, kv_heads, capacity, head_size))
        sizes = network.add_input("lengths", trt.DataType.INT32, (batch,))
        attention = network.add_attention_v2(q, k, v, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE)
        attention.key_value_form = trt.AttentionIOForm.PADDED_BHND
        attention.key_value_lengths = sizes
        attention.decomposable = False
        tensor = attention.get_output(0)
        tensor.name = "context"
        network.mark_output(tensor)

    memory, _ = OperatorBuild().plan(populate)
    engine = SingleEngine(memory)
    found = engine.run({"query": query, "key": key, "value": value, "lengths": lengths})["context"]
    return relative_difference(found.float(), expected), {}


def try_fp8_matmul(folder: Path) -> Tried:
    """Multiply FP8 inputs by FP8 weights, both through quantize and dequantize layers with a scale a tensor."""
    return _try_matmul("FP8", 448.0, lambda t: t.to(torch.float8_e4m3fn).float())


def try_int8_matmul(folder: Path) -> Tried:
    """Multiply INT8 inputs by INT8 weights in the same form, as SmoothQuant with static scales does."""
    return _try_matmul("INT8", 127.0, lambda t: t.round().clamp(-128, 127))


def _try_matmul(quantized: str, largest: float, rounding: Callable[[torch.Tensor], torch.Tensor]) -> Tried:
    """Multiply matrices of an 8-bit type, member `quantized` of DataType, whose largest number is `largest`."""
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(16, 128, generator=generator), torch.randn(128, 64, generator=generator)
    x_scale, weight_scale = float(x.abs().max()) / largest, float(weight.abs().max()) / largest
    rounded = [rounding(t / s) * s for t, s in ((x, x_scale), (weight, weight_scale))]
    constants = {
        "weight": weight.half().numpy(),
        "x": torch.tensor(x_scale).numpy(),
        "w": torch.tensor(weight_scale).numpy(),
    }

    def populate(trt: Any, network: Any) -> None:
        entry = network.add_input("x", trt.DataType.HALF, (16, 128))

        def constant(name: str, shape: tuple[int, ...]) -> Any:
            return network.add_constant(shape, trt.Weights(constants[name])).get_output(0)

        def through_eight_bits(tensor: Any, scale: str) -> Any:
            step = network.add_cast(constant(scale, ()), trt.DataType.HALF).get_output(0)
            layer = network.add_quantize(tensor, step, getattr(trt.DataType, quantized))
            return network.add_dequantize(layer.get_output(0), step, trt.DataType.HALF).get_output(0)

        kind = trt.MatrixOperation.NONE
        left, right = through_eight_bits(entry, "x"), through_eight_bits(constant("weight", (128, 64)), "w")
        tensor = network.add_matrix_multiply(left, kind, right, kind).get_output(0)
        tensor.name = "y"
        network.mark_output(tensor)

    memory, _ = OperatorBuild().plan(populate)
    found = SingleEngine(memory).run({"x": x.half()})["y"]
    return relative_difference(found.float(), rounded[0] @ rounded[1]), {}


def try_timing_cache(folder: Path) -> Tried:
    """Build twice, the second time from the first one's timings, and fail where one is missing there."""

    def populate(trt: Any, network: Any) -> None:
        tensor = network.add_input("x", trt.DataType.HALF, (64, 256))
        for seed in range(3):
            weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)).half().numpy()
            alive.append(weight)  # the network does not copy it
            right = network.add_constant((256, 256), trt.Weights(weight)).get_output(0)
            kind = trt.MatrixOperation.NONE
            tensor = network.add_matrix_multiply(tensor, kind, right, kind).get_output(0)
        tensor.name = "y"
        network.mark_output(tensor)

    alive: list[Any] = []
    build = OperatorBuild()
    started = time.monotonic()
    _, timings = build.plan(populate)
    middle = time.monotonic()
    if not timings:
        raise EngineError("The timing cache is empty after a build.")
    (folder / "timings.bin").write_bytes(timings)
    OperatorBuild().plan(populate, timings=timings, no_miss=True)
    facts = {"first_s": round(middle - started, 2), "second_s": round(time.monotonic() - middle, 2)}
    return None, {**facts, "cache_bytes": len(timings)}
