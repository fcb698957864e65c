"""The functions that try features; each gets its trial's folder and the feature's arguments, and returns
(largest relative difference from the reference, facts)."""

from .collective import try_collectives
from .inside import try_looking_inside
from .models import try_cuda_graphs, try_model, try_refit
from .operators import try_fp8_matmul, try_int8_matmul, try_key_value_lengths, try_timing_cache

PROBES = {
    "model": try_model,
    "refit": try_refit,
    "cuda_graphs": try_cuda_graphs,
    "looking_inside": try_looking_inside,
    "key_value_lengths": try_key_value_lengths,
    "fp8_matmul": try_fp8_matmul,
    "int8_matmul": try_int8_matmul,
    "timing_cache": try_timing_cache,
    "collectives": try_collectives,
}
