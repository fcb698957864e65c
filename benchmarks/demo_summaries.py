"""The demo models' summaries by engines of the torch backend against Hugging Face's, story by story, in three types.

For each demo model and type the checkpoint is converted, an engine is built (for the GPU, where there is one) and the
first 20 held-out stories are summarised greedily by it and by Hugging Face in float32. Printed are the stories whose
tokens are equal, and the ROUGE scores of both; float32 has to be equal token by token, float16 and bfloat16 have to
stay within half a point.

    python benchmarks/demo_summaries.py [--stories 20]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from trtbench_lab import workbench
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.specs import BuildConfig
from trtbench_lab.specs.requests import BuildSpec, ConvertSpec, SummarizeSpec

LARGEST_LOSS = 0.5  # ROUGE points
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def main() -> int:
    """Run, print a line each, and say by the exit code whether all is as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=20)
    args = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        for model in ("gpt2", "llama"):
            source = str(demo_model_dir(model))
            for dtype in ("float32", "float16", "bfloat16"):
                checkpoint = workbench.convert(ConvertSpec(source=source, dtype=dtype))
                limits = BuildConfig(backend="torch", compute_dtype=dtype, max_batch_size=1, max_input_len=923)
                engine_dir = str(Path(folder) / f"{model}-{dtype}")
                workbench.build(
                    BuildSpec(checkpoint_dir=checkpoint.output_dir, output_dir=engine_dir, build_config=limits)
                )
                result = workbench.summarize(
                    SummarizeSpec(
                        engine_dir=engine_dir, hf_model_dir=source, hf_dtype="float32", test_hf=True,
                        max_ite=args.stories, bootstrap_samples=0,
                    )
                )  # fmt: skip
                assert result.engine is not None
                assert result.hf is not None
                equal = sum(article.engine_texts == article.hf_texts for article in result.articles)
                scores = {kind: (result.engine.rouge[0].score(kind), result.hf.rouge[0].score(kind)) for kind in KINDS}
                loss = max(theirs - ours for ours, theirs in scores.values())
                passed = equal == len(result.articles) if dtype == "float32" else loss <= LARGEST_LOSS
                fine &= passed
                shown = "  ".join(f"{kind} {ours:.2f} ({theirs:.2f})" for kind, (ours, theirs) in scores.items())
                print(
                    f"{model:6}{dtype:9} on {result.engine.backend}: {equal} of {len(result.articles)} equal  {shown}  "
                    f"HF's time ÷ ours {result.hf.total_latency_s / result.engine.total_latency_s:.1f}  "
                    f"{'passed' if passed else 'FAILED'}",
                    flush=True,
                )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
