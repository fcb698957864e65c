"""What sort of work a layer does, told from the words that four engines have for it."""

from __future__ import annotations

import re

KINDS = {
    "matmul": "matrix products: linear layers, the head, and attention's two products where it is not fused",
    "attention": "attention as one layer",
    "softmax": "a softmax of its own",
    "norm": "layer and RMS norms",
    "embedding": "rows looked up in a table",
    "rotary": "rotary position embedding",
    "pointwise": "element by element: sums, products, activations, comparisons",
    "reduce": "sums, means and maxima along a dimension",
    "cache": "keys and values written into the cache",
    "copy": "copies, concatenations, splits and expansions",
    "layout": "transposes, reformats and reorders: the same numbers elsewhere",
    "cast": "changes of the element type",
    "quantize": "quantize and dequantize as layers of their own",
    "view": "shapes and views: no numbers are touched",
    "collective": "exchange with other ranks",
    "plugin": "plugins that tell no more",
    "fused": "fusions that tell no more",
    "other": "anything else",
}
"""Kind → what belongs to it, in the order in which figures show them."""

# torch's operators that touch no numbers; those that copy; words of elementwise work.
_VIEWS = (
    "view unsqueeze squeeze as_strided t transpose reshape expand unflatten flatten split chunk slice select "
    "detach alias "
    "item _local_scalar_dense size resolve_conj permute split_with_sizes movedim narrow"
)
_SHAPES = "shape size reshape flatten squeeze unsqueeze constant noop shape_call constantofshape castlike"
_COPIES = "cat copy_ clone stack repeat repeat_interleave fill_ zero_ zeros ones full arange constant_pad_nd pad"
_COPY_LAYERS = "concat concatenation copy identity slice split expand tile pad range"
_ELEMENTWISE = (
    "add mul sub div neg pow sqrt rsqrt exp erf tanh sigmoid relu gelu fastgelu biasgelu quickgelu silu swish "
    "swiglu where "
    "clip min max abs and or not less lessorequal greater greaterorequal equal reciprocal cos sin square le lt "
    "ge gt eq ne "
    "select result_type masked_fill"
)
_PRODUCTS = "linear addmm bmm mm einsum baddbmm"


def _any(words: str) -> str:
    return "(" + "|".join(words.split()) + ")"


# The first pattern found in the type, in small letters, decides. Order matters: attention comes before matmul.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("layout", r"^(reformat|reorder|transpose|aten::(contiguous|permute_copy))|copynode"),
    ("cache", r"kvcacheupdate|kv_cache_update|tensorscatter|scatterelements|scatternd|cache_update"),
    ("cache", r"aten::(scatter|index_put|index_copy)_?"),
    ("attention", r"attention|\bf?mha|flash|_mha|scaled_dot_product"),
    ("collective", r"distcollective|allreduce|all_reduce|all_gather|reduce_scatter|nccl|\bsend\b|\brecv\b"),
    ("softmax", r"softmax"),
    ("norm", r"layernorm|rmsnorm|normalization|rms_norm|layer_norm|\bnorm\b"),
    ("rotary", r"rotary|rope"),
    ("quantize", r"quantize|\bq_?dq\b"),
    ("matmul", r"matmul|gemm|matrixmultiply|fully_?connected|xmma|einsum|conv|matvec|skinny|weight_only"),
    ("matmul", rf"aten::{_any(_PRODUCTS)}\b"),
    ("embedding", r"embedding|gather|lookup|index_select|aten::index\b"),
    ("cast", r"\bcast(like)?\b|aten::(to|_to_copy|type_as)\b"),
    ("reduce", r"reduce|aten::(mean|sum|max|amax|argmax|aminmax|any|all)\b|topk|argmax|cumsum|cumulative"),
    ("view", rf"aten::{_any(_VIEWS)}\b|^{_any(_SHAPES)}\b|^shuffle\b"),
    ("copy", rf"^{_any(_COPY_LAYERS)}\b|aten::({_any(_COPIES)}|empty\w*|new_\w+)(?!\w)|memcpy"),
    ("pointwise", rf"pointwise|elementwise|unary|activation|\b{_any(_ELEMENTWISE)}_?\b|kgen"),
    ("pointwise", r"\b(clamp|logical_|bitwise_)\w*"),
    ("plugin", r"plugin"),
    ("fused", r"foreignnode|myelin|__myl|fusion"),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
# TensorRT's words for fused kernels tell little; the operators in the name or in the nodes tell more.
_VAGUE = re.compile(r"^(kgen|myelin|foreignnode|fusion|plugin\w*|pointwise\w*|shape_call|)$", re.IGNORECASE)
_MADE_OF = ("attention", "matmul", "softmax", "norm", "cache", "rotary", "embedding", "quantize")


def kind_of(type_: str, name: str = "", nodes: tuple[str, ...] = ()) -> str:
    """Return the kind of a layer.

    Parameters
    ----------
    type_, name
        In the engine's words.
    nodes
        Nodes of ours that it is made of: where the type tells little, the heaviest of them decides.
    """
    operators = [node.rpartition("/")[2] for node in nodes]
    if not _VAGUE.match(type_.strip()):
        found = _first(type_)
        if found is not None:
            return found
    of_parts = [kind for operator in operators if (kind := _first(re.sub(r"_\d+$", "", operator))) is not None]
    for kind in _MADE_OF:
        if kind in of_parts:
            return kind
    return (of_parts[0] if of_parts else None) or _first(name) or _first(type_) or "other"


def _first(text: str) -> str | None:
    folded = text.casefold()
    for kind, pattern in _COMPILED:
        if pattern.search(folded):
            return kind
    return None
