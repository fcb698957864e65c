"""All attention kernels; import this module only where Triton is installed."""

from .cache_update import cache_update_kernel, plain_cache_update_kernel
from .decode import combine_kernel, split_kernel
from .flash import flash_kernel

__all__ = [
    "cache_update_kernel",
    "combine_kernel",
    "flash_kernel",
    "plain_cache_update_kernel",
    "split_kernel",
]
