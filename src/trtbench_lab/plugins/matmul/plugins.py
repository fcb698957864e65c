"""The matrix products as plugins: `gemm`, weight-only (a scale an output or a group), SmoothQuant's, and FP8.

Weights have the checkpoint's layout. The plugin of a compiled engine is one kernel without scratch memory, so it never
splits the input features over programs; the engines of the torch backend call `launch.linear` instead, which does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import SpecError
from ...quantization.weight_only import WeightOnlyScheme
from ..frame import Attributes, Call, Launch, Operand, Plugin, cdiv
from ..quantizing import FLOATS
from . import reference
from .weights import KIND_CODES, WORD, LinearWeights

KERNELS = "trtbench_lab.plugins.matmul.kernels.forms"
TORCH_OF_ONNX = {1: "float32", 10: "float16", 16: "bfloat16"}
"""Number of a type in ONNX → torch's name: what the attribute `output_type` means."""
ONNX_OF_TORCH = {name: number for number, name in TORCH_OF_ONNX.items()}
ONE_ROW, FEW_ROWS, SOME_ROWS, MANY_ROWS = 1, 2, 3, 4
"""Tactics. `ONE_ROW` is right for one row only and is chosen by the plan, never offered."""

_UNPACK = """
    wide = Cast <to = 6> (weight)
    low_mask = Constant <value = int32 {15}> ()
    half = Constant <value = int32 {8}> ()
    sixteen = Constant <value = int32 {16}> ()
    high_mask = Constant <value = int32 {240}> ()
    low_bits = BitwiseAnd (wide, low_mask)
    high_part = BitwiseAnd (wide, high_mask)
    high_bits = Div (high_part, sixteen)
    low_up = Add (low_bits, half)
    high_up = Add (high_bits, half)
    low_turned = BitwiseAnd (low_up, low_mask)
    high_turned = BitwiseAnd (high_up, low_mask)
    low = Sub (low_turned, half)
    high = Sub (high_turned, half)
    last = Constant <value_ints = [2]> ()
    low_column = Unsqueeze (low, last)
    high_column = Unsqueeze (high, last)
    pairs = Concat <axis = 2> (low_column, high_column)
    row_shape = Constant <value_ints = [0, -1]> ()
    integers = Reshape (pairs, row_shape)"""
_INTEGERS = """
    integers = Cast <to = 6> (weight)"""
_CHANNEL = """
    numbers = CastLike (integers, x)
    columns = Constant <value_ints = [1]> ()
    row_scale = Unsqueeze (scale, columns)
    typed_scale = CastLike (row_scale, x)
    dense = Mul (numbers, typed_scale)"""
_GROUPS = """
    weight_shape = Shape (integers)
    group = Constant <value_int: int = @group_size> ()
    first = Constant <value_ints = [0]> ()
    group_column = Unsqueeze (group, first)
    rows_and_groups = Constant <value_ints = [0, -1]> ()
    group_shape = Concat <axis = 0> (rows_and_groups, group_column)
    grouped = Reshape ({integers}, group_shape)
    columns = Constant <value_ints = [2]> ()
    group_scale = Unsqueeze (scale, columns)
    typed_scale = CastLike (group_scale, x){shift}
    scaled = Mul (numbers, typed_scale)
    dense = Reshape (scaled, weight_shape)"""
_NO_SHIFT = """
    numbers = CastLike (grouped, x)"""
_SHIFT = """
    group_zero = Unsqueeze (zero, columns)
    wide_zero = Cast <to = 6> (group_zero)
    shifted = Sub (grouped, wide_zero)
    numbers = CastLike (shifted, x)"""
_PRODUCT = """
    transposed = Transpose <perm = [1, 0]> (dense)
    y = MatMul ({x}, transposed)"""


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _results(operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
    x, weight = operands[:2]
    dtype = TORCH_OF_ONNX[attributes["output_type"]] if "output_type" in attributes else x.dtype
    return (Operand((*x.shape[:-1], weight.shape[0]), dtype),)


def _plan(kernel: str, kind: str) -> Callable[[Call], Launch]:
    def plan(call: Call) -> Launch:
        x, weight = call.inputs[0], call.inputs[1]
        in_features, out_features = x.fixed(-1), weight.fixed(0)
        cells = in_features // 8 if kind == "int4" else in_features
        _check_extents(call, kernel, kind)
        constants: dict[str, Any] = {
            "N": out_features,
            "K": in_features,
            "KIND": KIND_CODES[kind],
            "GROUP": int(call.attributes.get("group_size", 0)),
            "ONE_SCALE": kind in ("fp8", "int8_int8") and call.inputs[3].numel == 1 and out_features > 1,
            "ROW_SCALES": bool(call.attributes.get("per_token", 0)),
        }
        rows, tactic = x.rows, call.tactic
        if isinstance(rows, int) and not tactic:
            one_row = rows == 1 and kind != "int8_int8"
            tactic = ONE_ROW if one_row else FEW_ROWS if rows <= 16 else SOME_ROWS if rows <= 64 else MANY_ROWS
        block_m, block_n, elements, swap, warps, stages = {
            ONE_ROW: (1, 8, 0, False, 4, 1),
            FEW_ROWS: (16, 32, 128, False, 4, 4),
            SOME_ROWS: (64, 64, 64, False, 4, 4),
            MANY_ROWS: (128, 128, 64, False, 8, 3),
            0: (64, 64, 64, False, 4, 4),
        }[tactic]
        if tactic == ONE_ROW:
            wide = 4 if kind == "int4" or x.dtype == "float32" else 8
            block_c = min(32 * warps, _power_of_two(-(-cells // wide)))
        else:
            step = elements // 8 if kind == "int4" else elements // (2 if x.dtype == "float32" else 1)
            block_c = max(32 if kind in ("fp8", "int8_int8") else 16, step)
        constants |= {
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_C": block_c,
            "SWAP": swap,
            "STAGES": stages,
        }
        blocks = cdiv(rows, block_m) * (-(-out_features // block_n))
        return Launch(kernel, (blocks,), {"rows": rows}, constants, num_warps=warps, num_stages=stages)

    return plan


def _check_extents(call: Call, kernel: str, kind: str) -> None:
    """Refuse tensors that do not belong together, and groups that end within what a thread reads at once."""
    x, weight, *others = call.inputs
    in_features, out_features = x.fixed(-1), weight.fixed(0)
    group = int(call.attributes.get("group_size", in_features))
    grouped = "group_size" in call.attributes
    unit = {"int4": 4 * WORD, "int8": WORD}.get(kind, 1)
    of_words = kind != "int4" or in_features % WORD == 0
    if not of_words or in_features % max(1, group) or (group % unit and group != in_features):
        raise SpecError(
            f"{in_features} input features in groups of {group}: {kind} needs groups of a multiple of {unit} that "
            f"divide the features{f', and a multiple of {WORD} of these' if kind == 'int4' else ''}.",
            where="plugin",
            remedy="Use groups of 32, 64 or 128 that divide the input features, or 8 bits.",
        )
    weight.demand("weight", out_features, in_features // 2 if kind == "int4" else in_features)
    of_groups = (out_features, in_features // group) if grouped else (out_features,)
    if kernel == "with_bias":
        others[0].demand("bias", out_features)
    elif kernel not in ("plain", "with_input_scale"):
        others[0].demand("scale", *of_groups)
    if kernel == "with_zero":
        others[1].demand("zero", *of_groups)
    elif kernel == "with_pre_scale":
        others[1].demand("pre_scale", in_features)
    elif kernel == "with_input_scale" and others[1].numel != 1:
        others[1].demand("weight_scale", out_features)


def _plugin(
    name: str,
    op_type: str,
    kernel: str,
    kind: str,
    inputs: tuple[str, ...],
    types: Callable[[str], tuple[str, ...]],
    definition: Callable[..., torch.Tensor],
    body: str,
    switch: str,
    replaces: str,
    attributes: dict[str, type] | None = None,
) -> Plugin:
    return Plugin(
        name=name,
        op_type=op_type,
        inputs=inputs,
        outputs=("y",),
        attributes=attributes or {},
        types=tuple(types(dtype) for dtype in FLOATS),
        reference=definition,
        results=_results,
        plan=_plan(kernel, kind),
        kernels=KERNELS,
        onnx_body=body.strip("\n"),
        switches=(switch,),
        replaces=replaces,
        tactics=lambda attributes: (FEW_ROWS, SOME_ROWS, MANY_ROWS),
    )


def gemm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x Wᵀ``: x (…, K), weight (N, K) of one type."""
    return x @ weight.t()


def gemm_bias(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``x Wᵀ + b``: x (…, K), weight (N, K), bias (N,) of one type."""
    return torch.nn.functional.linear(x, weight, bias)


def _quantized(
    kind: str, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, group_size: int | None, **more: torch.Tensor
) -> torch.Tensor:
    weights = LinearWeights(kind, weight, weight.shape[0], x.shape[-1], scale, group_size, **more)
    if weights.pre_scale is not None:
        x = x * weights.pre_scale
    return x @ reference.dequantized(weights, x.dtype).t()


def _channel(kind: str) -> Callable[..., torch.Tensor]:
    def definition(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """``x · (q · scale)ᵀ``: weight int8 (N, K) or, two 4-bit values a byte, (N, K / 2); scale (N,) as x."""
        return _quantized(kind, x, weight, scale, None)

    return definition


def _group(kind: str, extra: str | None) -> Callable[..., torch.Tensor]:
    if extra is None:

        def plain(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, group_size: int) -> torch.Tensor:
            """``x · (q · scale)ᵀ`` with scales (N, K / group_size) as x."""
            return _quantized(kind, x, weight, scale, group_size)

        return plain

    def definition(
        x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, other: torch.Tensor, group_size: int
    ) -> torch.Tensor:
        """As above with zero points int8 (N, K / group_size) below q, or a scale (K,) of the inputs."""
        return _quantized(kind, x, weight, scale, group_size, **{extra: other})

    return definition


def smooth_quant_gemm(
    x: torch.Tensor,
    weight: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale: torch.Tensor,
    per_token: int,
    output_type: int,
) -> torch.Tensor:
    """INT8 × INT8 with an exact int32 sum, scaled in float32 and rounded once to `output_type` (its number in ONNX).

    x (…, K) and weight (N, K) int8; x_scale float32 (…, 1) where `per_token`, else (1,); weight_scale float32 (N,) or
    (1,).
    """
    rows = _rows(x)
    weights = LinearWeights("int8_int8", weight, weight.shape[0], x.shape[-1], weight_scale)
    dtype = getattr(torch, TORCH_OF_ONNX[output_type])
    # float64 holds every partial sum of int8 products exactly
    total = (rows.double() @ weights.weight.double().t()).to(torch.int32).float()
    scale = x_scale.reshape(-1, 1) if per_token else x_scale
    return (total * scale * weight_scale).to(dtype).reshape(*x.shape[:-1], -1)


def fp8_matmul(
    x: torch.Tensor, weight: torch.Tensor, input_scale: torch.Tensor, weight_scale: torch.Tensor
) -> torch.Tensor:
    """``round_fp8(x / input_scale) Wᵀ · input_scale · weight_scale``: weight float8_e4m3fn (N, K), scales (1,)."""
    rounded = reference.to_fp8(x, input_scale).float()
    return (rounded @ weight.float().t() * (input_scale * weight_scale)).to(x.dtype)


_SMOOTH_BODY = """
    columns = Constant <value_ints = [1, 0]> ()
    transposed = Transpose <perm = [1, 0]> (weight)
    total = MatMulInteger (x, transposed)
    wide = Cast <to = 1> (total)
    by_x = Mul (wide, x_scale)
    scaled = Mul (by_x, weight_scale)
    y = Cast <to: int = @output_type> (scaled)"""
_FP8_BODY = """
    wide_x = Cast <to = 1> (x)
    divided = Div (wide_x, input_scale)
    most = Constant <value_float = 448.0> ()
    least = Constant <value_float = -448.0> ()
    clipped = Clip (divided, least, most)
    rounded = Cast <to = 17> (clipped)
    numbers = Cast <to = 1> (rounded)
    wide_weight = Cast <to = 1> (weight)
    transposed = Transpose <perm = [1, 0]> (wide_weight)
    total = MatMul (numbers, transposed)
    scales = Mul (input_scale, weight_scale)
    scaled = Mul (total, scales)
    y = CastLike (scaled, x)"""
_GEMM_SWITCH = "gemm_plugin"
_CHANNEL_SWITCH = "weight_only_quant_matmul_plugin"
_GROUP_SWITCH = "weight_only_groupwise_quant_matmul_plugin"

GEMM = _plugin(
    "gemm",
    "DenseMatMul",
    "plain",
    "dense",
    ("x", "weight"),
    lambda dtype: (dtype,) * 3,
    gemm,
    "    dense = Identity (weight)" + _PRODUCT.format(x="x"),
    _GEMM_SWITCH,
    "Transpose and MatMul",
)
GEMM_BIAS = _plugin(
    "gemm_bias",
    "DenseMatMulBias",
    "with_bias",
    "dense",
    ("x", "weight", "bias"),
    lambda dtype: (dtype,) * 4,
    gemm_bias,
    """    transposed = Transpose <perm = [1, 0]> (weight)
    product = MatMul (x, transposed)
    y = Add (product, bias)""",
    _GEMM_SWITCH,
    "Transpose, MatMul and Add",
)


def _weight_only(kind: str) -> dict[str, Plugin]:
    """The plugins of one width of weights, by what they have beside weight and scale."""
    word, unpack = ("Int8", _INTEGERS) if kind == "int8" else ("Int4", _UNPACK)
    replaces = f"DequantizeLinear of {word.upper()} weights and MatMul"
    product = _PRODUCT.format(x="x")
    found = {
        "channel": _plugin(
            f"weight_only_quant_matmul_{kind}",
            f"{word}ChannelProduct",
            "with_scale",
            kind,
            ("x", "weight", "scale"),
            lambda dtype: (dtype, "int8", dtype, dtype),
            _channel(kind),
            unpack + _CHANNEL + product,
            _CHANNEL_SWITCH,
            replaces + ", a scale an output",
        )
    }
    for extra, suffix in ((None, ""), ("zero", "Zero"), ("pre_scale", "PreScale")):
        body = unpack + _GROUPS.format(integers="integers", shift=_SHIFT if extra == "zero" else _NO_SHIFT)
        if extra == "pre_scale":
            body += "\n    scaled_x = Mul (x, pre_scale)" + _PRODUCT.format(x="scaled_x")
        else:
            body += product

        def types(dtype: str, extra: str | None = extra) -> tuple[str, ...]:
            others = () if extra is None else ("int8" if extra == "zero" else dtype,)
            return (dtype, "int8", dtype, *others, dtype)

        found[extra or "group"] = _plugin(
            f"weight_only_groupwise_quant_matmul_{kind}" + ("" if extra is None else f"_{extra}"),
            f"{word}GroupProduct{suffix}",
            "with_scale" if extra is None else f"with_{extra}",
            kind,
            ("x", "weight", "scale", *(() if extra is None else (extra,))),
            types,
            _group(kind, extra),
            body,
            _GROUP_SWITCH,
            replaces
            + ", a scale a group"
            + {"zero": " with zero points", "pre_scale": ", of scaled inputs"}.get(extra or "", ""),
            {"group_size": int},
        )
    return found


INT8_PRODUCTS, INT4_PRODUCTS = _weight_only("int8"), _weight_only("int4")
SMOOTH_QUANT_GEMM = _plugin(
    "smooth_quant_gemm",
    "SmoothQuantGemm",
    "with_input_scale",
    "int8_int8",
    ("x", "weight", "x_scale", "weight_scale"),
    lambda dtype: ("int8", "int8", "float32", "float32", dtype),
    smooth_quant_gemm,
    _SMOOTH_BODY.replace("    columns = Constant <value_ints = [1, 0]> ()\n", ""),
    "smooth_quant_gemm_plugin",
    "MatMulInteger and its scales",
    {"per_token": int, "output_type": int},
)
FP8_MATMUL = _plugin(
    "fp8_matmul",
    "Fp8Product",
    "with_input_scale",
    "fp8",
    ("x", "weight", "input_scale", "weight_scale"),
    lambda dtype: (dtype, "float8_e4m3fn", "float32", "float32", dtype),
    fp8_matmul,
    _FP8_BODY,
    _GEMM_SWITCH,
    "quantize, MatMul of FP8 and its scales",
)
PLUGINS = (
    GEMM,
    GEMM_BIAS,
    *INT8_PRODUCTS.values(),
    *INT4_PRODUCTS.values(),
    SMOOTH_QUANT_GEMM,
    FP8_MATMUL,
)


def weight_only_plugin(scheme: WeightOnlyScheme, in_features: int) -> Plugin | None:
    """Return the plugin that multiplies by weights of `scheme`, or None where no kernel takes these rows.

    4-bit elements are read eight at a time.
    """
    if scheme.bits == 4 and in_features % WORD:
        return None
    return (INT8_PRODUCTS if scheme.bits == 8 else INT4_PRODUCTS)["channel" if scheme.group_size is None else "group"]


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
