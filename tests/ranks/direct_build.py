"""Real engine folders without a process a build: the backend's builder and the seal of `engine`, called here."""

from __future__ import annotations

from pathlib import Path

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.engine.key import content_key
from trtbench_lab.engine.plan import plan_build
from trtbench_lab.engine.seal import seal_engine
from trtbench_lab.specs import BuildConfig


def build_here(checkpoint: Path, config: BuildConfig, folder: Path) -> Path:
    """Build every rank of a checkpoint into `folder`, as the build's worker does, and return it."""
    plan = plan_build(
        checkpoint, config, folder, overwrite=False, timeout_s=None, use_cache=False, builder=None, tokenizer_dir=None
    )
    digest = open_checkpoint(checkpoint).digest
    folder.mkdir(parents=True)
    for rank in range(plan.model_config.mapping.world_size):
        plan.builder.build(checkpoint, rank, plan.build_config, folder, QuietReporter())
    seal_engine(
        folder,
        plan,
        key=content_key(digest, plan.model_config, plan.build_config, plan.builder),
        checkpoint={"directory": str(checkpoint), "digest": digest},
        tokenizer_dir=None,
        notes=plan.notes,
        build_seconds=lambda: 0.0,
        build_report=dict,
        check=lambda: None,
    )
    return folder
