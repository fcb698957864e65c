"""ONNX functions of quantized products: pairs of QuantizeLinear and DequantizeLinear, as TensorRT's parser wants them.

Weights have a scale a channel (INT8, FP8; groups of INT8 as rows of their own) or a block (INT4). TensorRT takes no
zero points: with ``W = (q − z) · scale`` the product is ``x (q · scale)ᵀ + S(x) (−z · scale)ᵀ``, where S sums x over
groups. Inputs have one scale a pair: what has a scale a token is divided by it first, so that the pair's own is 1.
Products of rounded inputs are in float32, the type of their scales.
"""

from __future__ import annotations

from ..plugins.function_node import PLUGIN_DOMAIN

_CHANNELS = """
            dense = DequantizeLinear <axis = 0> (weight, scale)"""
_BLOCKS = """
            dense = DequantizeLinear <axis = 1, block_size: int = @group_size> (weight, scale)"""
_GROUP_ROWS = """
            groups = DequantizeLinear <axis = 0> (weight, scale)
            rows = Constant <value_ints = [-1]> ()
            width = Constant <value_int: int = @in_features> ()
            axis = Constant <value_ints = [0]> ()
            columns = Unsqueeze (width, axis)
            dense_shape = Concat <axis = 0> (rows, columns)
            dense = Reshape (groups, dense_shape)"""
_PRODUCT = """
            transposed = Transpose <perm = [1, 0]> (dense)
            {y} = MatMul ({x}, transposed)"""
_ZERO_POINTS = """
            leading = Shape <start = 0, end = -1> (x)
            all_groups = Constant <value_ints = [-1]> ()
            size = Constant <value_int: int = @group_size> ()
            first = Constant <value_ints = [0]> ()
            size_column = Unsqueeze (size, first)
            grouped_shape = Concat <axis = 0> (leading, all_groups, size_column)
            grouped = Reshape (x, grouped_shape)
            sums = ReduceSum <keepdims = 0> (grouped, all_groups)
            shift_columns = Transpose <perm = [1, 0]> (shift)
            correction = MatMul (sums, shift_columns)
            y = Add (product, correction)"""
# The step of each token, 1 where all is zero; subnormal ones would overflow the division.
_OWN_STEPS = """
            wide = Cast <to = 1> (x)
            magnitude = Abs (wide)
            last = Constant <value_ints = [-1]> ()
            largest = ReduceMax <keepdims = 1> (magnitude, last)
            most = Constant <value_float = {most}> ()
            smallest = Constant <value_float = 1.1754943508222875e-38> ()
            one = Constant <value_float = 1.0> ()
            ratio = Div (largest, most)
            is_zero = Less (ratio, smallest)
            token_step = Where (is_zero, one, ratio)
            divided = Div (wide, token_step)
            rounded = QuantizeLinear <output_dtype = {dtype}> (divided, one)
            numbers = DequantizeLinear (rounded, one)"""
_ONE_STEP = """
            wide = Cast <to = 1> (x)
            rounded = QuantizeLinear <output_dtype = {dtype}> (wide, step)
            numbers = DequantizeLinear (rounded, step)"""
_ROUNDED_TYPES = {"Int8": {"dtype": 3, "most": "127.0"}, "Fp8": {"dtype": 17, "most": "448.0"}}


def _function(signature: str, *body: str) -> str:
    return f'<domain: "trtbench", opset_import: ["" : 24]> {signature} => (y) {{{"".join(body)}\n        }}'


def _rounded(word: str) -> dict[str, str]:
    """Products of inputs in one 8-bit type, with a step for all of them or one a token."""
    values = _ROUNDED_TYPES[word]
    product = _CHANNELS + _PRODUCT.format(x="numbers", y="product")
    back = "\n            y = CastLike (product, x)"
    scaled = "\n            scaled = Mul (product, token_step)\n            y = CastLike (scaled, x)"
    static, token = f"{word}StaticMatMul", f"{word}TokenMatMul"
    return {
        static: _function(f"{static} (x, weight, scale, step)", _ONE_STEP.format(**values), product, back),
        token: _function(f"{token} (x, weight, scale)", _OWN_STEPS.format(**values), product, scaled),
    }


_PLAIN = _PRODUCT.format(x="x", y="y")
_SHIFTED = _PRODUCT.format(x="x", y="product") + _ZERO_POINTS
_BODIES = {
    "Int8MatMul": _function("Int8MatMul (x, weight, scale)", _CHANNELS, _PLAIN),
    "Int8GroupMatMul": _function("Int8GroupMatMul <in_features: int> (x, weight, scale)", _GROUP_ROWS, _PLAIN),
    "Int8GroupZeroMatMul": _function(
        "Int8GroupZeroMatMul <in_features: int, group_size: int> (x, weight, scale, shift)", _GROUP_ROWS, _SHIFTED
    ),
    "Int4MatMul": _function("Int4MatMul <group_size: int> (x, weight, scale)", _BLOCKS, _PLAIN),
    "Int4ZeroMatMul": _function("Int4ZeroMatMul <group_size: int> (x, weight, scale, shift)", _BLOCKS, _SHIFTED),
    **_rounded("Int8"),
    **_rounded("Fp8"),
    "Fp8Round": _function("Fp8Round (x, step)", _ONE_STEP.format(dtype=17), "\n            y = CastLike (numbers, x)"),
}
QUANTIZED_SOURCES = {(PLUGIN_DOMAIN, name): source for name, source in _BODIES.items()}
"""Domain and name → source of the function."""
