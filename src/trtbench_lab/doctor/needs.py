"""Which features need which component: one column of the doctor's table."""

from __future__ import annotations

# Beginning of a component's name → what needs it.
NEEDED_FOR: tuple[tuple[str, str], ...] = (
    ("Python", "everything"),
    ("trtbench-lab", "everything"),
    ("torch", "everything"),
    ("transformers", "reading models, comparing with Hugging Face"),
    ("rouge-score", "scores of summaries"),
    ("sentencepiece", "tokenizers of LLaMA and others"),
    ("psutil", "memory figures"),
    ("onnxruntime", "onnxruntime engines"),
    ("onnx", "export, onnxruntime and TensorRT engines"),
    ("huggingface-hub", "downloads"),
    ("other base packages", "everything"),
    ("CUDA", "torch engines on a GPU"),
    ("GPU peer access", "several ranks on GPUs"),
    ("GPU", "TensorRT engines, torch engines on a GPU, FP8"),
    ("driver", "TensorRT engines, torch engines on a GPU"),
    ("MIG", "TensorRT engines, torch engines on a GPU"),
    ("TensorRT libraries", "TensorRT engines"),
    ("tensorrt", "TensorRT engines"),
    ("triton", "plugins on a GPU and in TensorRT engines"),
    ("NCCL", "several ranks on GPUs"),
    ("MPI", "several ranks"),
    ("shared memory", "several ranks"),
    ("interfaces", "several ranks"),
    ("ipyparallel", "%%trt_mpi"),
    ("Slurm", "ranks on several machines"),
    ("jupyterlab", "notebooks"),
    ("ipywidgets", "panels, progress bars"),
    ("plotly", "figures, HTML reports"),
    ("pandas", "history as tables"),
    ("pyarrow", "history as Parquet"),
    ("CPU", "engines on a CPU, conversion"),
    ("threads", "engines on a CPU, timings"),
    ("memory", "conversion, builds, engines on a CPU"),
    ("cache folder", "downloads, engines, results"),
    ("disk", "downloads, checkpoints, engines"),
    ("results", "history"),
    ("hub", "downloads"),
    ("backend auto", "build without --backend"),
    ("backend", "build, run, bench with it"),
    ("engine", "this engine"),
)


def needed_for(component: str) -> str:
    """Return what needs a component."""
    from .packages import BASE

    found = next((purpose for beginning, purpose in NEEDED_FOR if component.startswith(beginning)), "")
    return found or ("everything" if component in BASE else "")
