"""What GPUs can do: memory, bandwidth and arithmetic as published, and as this project measured it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...errors import SpecError, did_you_mean

GIB = 1 << 30
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU, or the machine at hand.

    Attributes
    ----------
    name
        As people write it: ``"H100 SXM"``.
    memory_bytes
        What software can use of it. Data sheets say GB and mean 2³⁰ bytes; where error correction lives in the same
        memory (GDDR6 boards), 15/16 of that is left.
    bandwidth_bytes_per_s
        Of its memory, published.
    flops_per_s
        Dense matrix products with float32 accumulation by type of the inputs, published; a type it lacks is not there.
    compute_capability
        For example ``"9.0"``; empty for a CPU.
    link_bytes_per_s
        To its neighbours, both directions together as data sheets count; NVLink where it has it, else PCIe.
    source
        Where the published figures stand.
    read_bytes_per_s, product_flops_per_s
        What plain kernels were measured to reach, in all bytes read and products of its 16-bit (CPU: float32) types;
        None where nobody here measured.
    measured
        Where the measured figures come from; empty without.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: dict[str, float] = field(hash=False)
    compute_capability: str = ""
    link_bytes_per_s: float = 0.0
    source: str = ""
    read_bytes_per_s: float | None = None
    product_flops_per_s: float | None = None
    measured: str = ""

    @property
    def is_cpu(self) -> bool:
        """Whether this is a machine without GPU."""
        return not self.compute_capability

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability as two numbers; (0, 0) for a CPU."""
        major, _, minor = self.compute_capability.partition(".")
        return (int(major or 0), int(minor or 0))


def _gpu(
    name: str,
    gigabytes: float,
    terabytes_per_s: float,
    capability: str,
    source: str,
    link_gb: float,
    *,
    fp32: float,
    half: float,
    int8: float,
    fp8: float | None = None,
    bf16: bool = True,
    inline_ecc: bool = False,
    **measured: float | str,
) -> Gpu:
    """Return an entry from data-sheet units: GB, TB/s, TFLOP/s dense, GB/s."""
    rates = {"float32": fp32, "float16": half, **({"bfloat16": half} if bf16 else {}), "int8": int8}
    if fp8 is not None:
        rates["fp8"] = fp8
    return Gpu(
        name=name,
        memory_bytes=int(gigabytes * GIB * (15 / 16 if inline_ecc else 1)),
        bandwidth_bytes_per_s=terabytes_per_s * TERA,
        flops_per_s={kind: rate * TERA for kind, rate in rates.items()},
        compute_capability=capability,
        link_bytes_per_s=link_gb * 1e9,
        source=source,
        **measured,  # type: ignore[arg-type]
    )


GPUS: tuple[Gpu, ...] = (
    _gpu("B200", 180, 7.7, "10.0", "NVIDIA HGX B200 data sheet, an eighth of the board", 1800,
         fp32=75, half=2250, int8=4500, fp8=4500),
    _gpu("H200", 141, 4.8, "9.0", "NVIDIA H200 Tensor Core GPU data sheet (SXM)", 900,
         fp32=67, half=989.5, int8=1979, fp8=1979, read_bytes_per_s=4.34e12, product_flops_per_s=778e12,
         measured="benchmarks/RESULTS.md, 2026-11-21: read rate 4.24 to 4.44 TB/s, bf16 products 681 to 778 TFLOP/s"),
    _gpu("H100 SXM", 80, 3.35, "9.0", "NVIDIA H100 Tensor Core GPU data sheet (SXM)", 900,
         fp32=67, half=989.5, int8=1979, fp8=1979),
    _gpu("H100 NVL", 94, 3.9, "9.0", "NVIDIA H100 Tensor Core GPU data sheet (NVL)", 600,
         fp32=60, half=835.5, int8=1671, fp8=1671),
    _gpu("H100 PCIe", 80, 2.0, "9.0", "NVIDIA H100 PCIe product brief", 600,
         fp32=51, half=756, int8=1513, fp8=1513),
    _gpu("A100 80GB", 80, 2.039, "8.0", "NVIDIA A100 Tensor Core GPU data sheet (SXM, 80 GB)", 600,
         fp32=19.5, half=312, int8=624),
    _gpu("A100 80GB PCIe", 80, 1.935, "8.0", "NVIDIA A100 Tensor Core GPU data sheet (PCIe, 80 GB)", 600,
         fp32=19.5, half=312, int8=624),
    _gpu("A100 40GB", 40, 1.555, "8.0", "NVIDIA A100 Tensor Core GPU data sheet (40 GB)", 600,
         fp32=19.5, half=312, int8=624),
    _gpu("L40S", 48, 0.864, "8.9", "NVIDIA L40S data sheet", 64,
         fp32=91.6, half=362, int8=733, fp8=733, inline_ecc=True),
    _gpu("L4", 24, 0.300, "8.9", "NVIDIA L4 Tensor Core GPU data sheet", 64,
         fp32=30.3, half=121, int8=242.5, fp8=242.5, inline_ecc=True),
    _gpu("A10G", 24, 0.600, "8.6", "NVIDIA A10G data sheet", 64,
         fp32=35, half=70, int8=140, inline_ecc=True),
    _gpu("A10", 24, 0.600, "8.6", "NVIDIA A10 Tensor Core GPU data sheet", 64,
         fp32=31.2, half=125, int8=250, inline_ecc=True),
    _gpu("T4", 16, 0.320, "7.5", "NVIDIA T4 data sheet", 32,
         fp32=8.1, half=65, int8=130, bf16=False, inline_ecc=True),
    _gpu("RTX 5090", 32, 1.792, "12.0", "NVIDIA RTX Blackwell GPU architecture paper", 128,
         fp32=104.8, half=209.5, int8=838, fp8=419),
    _gpu("RTX 4090", 24, 1.008, "8.9", "NVIDIA Ada GPU architecture paper", 64,
         fp32=82.6, half=165.2, int8=660.6, fp8=330.3),
    _gpu("RTX 3090", 24, 0.936, "8.6", "NVIDIA Ampere GA102 GPU architecture paper", 64,
         fp32=35.6, half=71, int8=284),
)  # fmt: skip
"""Published figures, dense (without structured sparsity)."""

THIS = "this"


def gpu_named(text: str) -> Gpu:
    """Return the entry that people mean: ``h200``, ``NVIDIA H100 80GB HBM3``, ``a100-40gb``, ``RTX4090`` …

    Raises
    ------
    SpecError
        When the table has none, with the nearest name.
    """
    found = gpu_from_name(text)
    if found is None:
        raise SpecError(
            f"There is no GPU {text!r} in the table.",
            where="gpu",
            remedy=f"{did_you_mean(text, [gpu.name for gpu in GPUS], limit=20)} 'this' measures the machine at hand.",
        )
    return found


def gpu_from_name(text: str) -> Gpu | None:
    """Return the entry of a name, drivers' names among them; None where the table has none."""
    words = _plain(text)
    exact = [gpu for gpu in GPUS if _plain(gpu.name) == words]
    if exact:
        return exact[0]
    aliases = {
        "h100": "H100 SXM", "h10080gbhbm3": "H100 SXM", "h100hbm3": "H100 SXM", "h100sxm5": "H100 SXM",
        "h200sxm": "H200", "h200141gb": "H200", "a100": "A100 80GB", "a100sxm480gb": "A100 80GB",
        "a100sxm80gb": "A100 80GB", "a100sxm": "A100 80GB", "a100pcie80gb": "A100 80GB PCIe",
        "a100sxm440gb": "A100 40GB", "a100pcie40gb": "A100 40GB", "a10040gbpcie": "A100 40GB",
        "b200sxm": "B200", "4090": "RTX 4090", "3090": "RTX 3090", "5090": "RTX 5090",
    }  # fmt: skip
    name = aliases.get(words)
    return next((gpu for gpu in GPUS if gpu.name == name), None)


def _plain(text: str) -> str:
    """Return a name's letters and digits, without the maker's words."""
    words = re.sub(r"\b(nvidia|geforce|tesla|tensor core|gpu)\b", "", text.lower())
    return re.sub(r"[^a-z0-9]", "", words)
