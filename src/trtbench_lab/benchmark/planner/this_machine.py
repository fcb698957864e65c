"""The machine at hand as an entry of the table: its ceilings by measurement, in about two seconds."""

from __future__ import annotations

import dataclasses
import functools

from ...engine.machine import machine_fingerprint
from ..bandwidth import read_bandwidth
from ..matrix_rate import matrix_rate
from .gpus import TERA, Gpu, gpu_from_name

NARROW_ON_CPU = 1.0  # 8-bit products are taken as no faster than float32 ones: that needs hardware not all CPUs have


@functools.cache
def this_machine() -> Gpu:
    """Return this machine's GPU, or its CPU where it has none, with measured ceilings."""
    import torch

    if torch.cuda.is_available():
        return _gpu()
    threads = torch.get_num_threads()
    read = read_bandwidth("cpu")
    rate = matrix_rate("cpu", "float32", threads)
    facts = machine_fingerprint()
    return Gpu(
        name=str(facts.get("cpu_model") or "CPU"),
        memory_bytes=int(facts.get("memory_bytes") or 0),
        bandwidth_bytes_per_s=read.bytes_per_s,
        flops_per_s=dict.fromkeys(("float32", "float16", "bfloat16", "int8"), rate * NARROW_ON_CPU),
        source="measured",
        read_bytes_per_s=read.bytes_per_s,
        product_flops_per_s=rate,
        measured=f"measured here with {threads} threads: {read.bytes_per_s / 1e9:.1f} GB/s read ({read.kernel}), "
        f"{rate / 1e9:.0f} GFLOP/s in float32 products",
    )


def _gpu() -> Gpu:
    import torch

    name = torch.cuda.get_device_name(0)
    properties = torch.cuda.get_device_properties(0)
    read = read_bandwidth("cuda").bytes_per_s
    rate = matrix_rate("cuda:0", "float16", 0)
    measured = f"measured here: {read / TERA:.2f} TB/s read, {rate / TERA:.0f} TFLOP/s in float16 products"
    known = gpu_from_name(name)
    own = {
        "memory_bytes": int(properties.total_memory), "read_bytes_per_s": read, "product_flops_per_s": rate,
        "measured": measured,
    }  # fmt: skip
    if known is not None:
        return dataclasses.replace(known, **own)  # type: ignore[arg-type]
    # Not in the table: the other types by the proportions that all entries of its generation share.
    capability = torch.cuda.get_device_capability(0)
    rates = {"float32": rate / 8, "float16": rate, "bfloat16": rate, "int8": 2 * rate}
    if capability >= (8, 9):
        rates["fp8"] = 2 * rate
    return Gpu(
        name=name, bandwidth_bytes_per_s=read, flops_per_s=rates, link_bytes_per_s=64e9, source="measured",
        compute_capability=f"{capability[0]}.{capability[1]}", **own,  # type: ignore[arg-type]
    )  # fmt: skip
