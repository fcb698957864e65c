"""Memory: peaks that are never mixed, sizes, and the machine's limit, which is the weights that a decode step reads."""

from __future__ import annotations

from ..metric import HIGHER, LOWER, NEITHER, Metric

MEMORY = (
    Metric(
        tag="process_rss_peak_bytes",
        title="Peak process memory (resident)",
        unit="bytes",
        direction=LOWER,
        formula="max over the measurement of the process's resident set",
        definition=(
            "Physical host memory of this process while it ran; of memory-mapped weight files the parts that were "
            "touched."
        ),
        trap=(
            "It counts the Python interpreter, the libraries and whatever else the process holds, such as a second "
            "model."
        ),
    ),
    Metric(
        tag="process_gpu_peak_bytes",
        title="Peak GPU memory of the process",
        unit="bytes",
        direction=LOWER,
        formula="max over the measurement of NVML's used memory of this process",
        definition=(
            "Device memory that the driver accounts to this process: weights, cache, workspaces and the CUDA context."
        ),
        trap="Inside a container the driver may not tell processes apart; then it is n/a.",
    ),
    Metric(
        tag="device_gpu_peak_bytes",
        title="Peak used memory of the GPU",
        unit="bytes",
        direction=LOWER,
        formula="max over the measurement of NVML's used memory of the device",
        definition="Device memory in use by everybody on that GPU.",
        trap="Other processes on the same GPU are in it.",
    ),
    Metric(
        tag="allocator_reserved_peak_bytes",
        title="Peak memory reserved by torch's allocator",
        unit="bytes",
        direction=LOWER,
        formula="torch.cuda.max_memory_reserved()",
        definition="What torch's caching allocator took from the device.",
        trap="Blind to what TensorRT, NCCL or the CUDA context allocate themselves.",
    ),
    Metric(
        tag="allocator_allocated_peak_bytes",
        title="Peak memory allocated by torch's allocator",
        unit="bytes",
        direction=LOWER,
        formula="torch.cuda.max_memory_allocated()",
        definition="What live torch tensors occupied of the reserved memory.",
        trap="Always at most the reserved figure, and as blind as it to other libraries.",
    ),
    Metric(
        tag="process_rss_peak_delta_bytes",
        title="Peak growth of process memory",
        unit="bytes",
        direction=LOWER,
        formula="max over the work of the resident set − resident set before",
        definition="What one piece of work added to this process's memory at its peak.",
        trap="Memory that an allocator kept from earlier work is used again without showing.",
    ),
    Metric(
        tag="kv_cache_bytes",
        title="Key/value cache",
        unit="bytes",
        direction=LOWER,
        formula="2 · layers · rows · K/V heads · capacity · head size · bytes an element",
        definition="Size of the cache that the engine holds for the batch at hand.",
    ),
    Metric(
        tag="build_peak_bytes",
        title="Peak memory of the build",
        unit="bytes",
        direction=LOWER,
        formula="max over the build of its process's resident set",
        definition="Host memory of the process that built the engine.",
    ),
    Metric(
        tag="engine_bytes",
        title="Engine folder",
        unit="bytes",
        direction=LOWER,
        formula="sum of the sizes of its files",
        definition="Size of the engine on the disk, weights included.",
    ),
    Metric(
        tag="weights_bytes",
        title="Weights",
        unit="bytes",
        direction=LOWER,
        formula="sum over stored tensors of elements · bytes an element",
        definition="Size of the engine's weights as it stores them, quantization scales included.",
    ),
    Metric(
        tag="weights_percent",
        title="Weights resident on the device",
        unit="%",
        direction=NEITHER,
        formula="100 · resident weight bytes / all weight bytes",
        definition="Share of the weights kept on the device when weight streaming is on; 100 without it.",
    ),
)

MACHINE_LIMIT = (
    Metric(
        tag="decode_read_bytes",
        title="Weights read by a decode step",
        unit="bytes",
        direction=LOWER,
        formula="bytes of the weights that take part in every step",
        definition=(
            "All weights but the embedding tables, whose single rows are looked up; a table that is also the head "
            "counts."
        ),
    ),
    Metric(
        tag="share_of_read_bandwidth",
        title="Share of the measured read bandwidth",
        unit="%",
        direction=HIGHER,
        formula="100 · decode_read_bytes / median inter-token latency / measured read bandwidth",
        definition=(
            "How near a decode step comes to the time in which the machine can only just read the weights: its "
            "physical limit at batch 1."
        ),
        trap=(
            "The key/value cache is not counted, so long sequences and large batches look worse than they are. Weights "
            "that fit into the processor's cache can exceed 100 %."
        ),
    ),
)
