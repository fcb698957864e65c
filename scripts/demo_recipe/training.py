"""The training loop: AdamW with a cosine schedule over packed rows, bfloat16 on a GPU, float32 on a CPU."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from .dataset import ARTICLE, PADDING, PROSE, SUMMARY, PackedRows

PART_WEIGHTS = {PADDING: 0.0, ARTICLE: 0.3, SUMMARY: 1.0, PROSE: 0.6}
"""Names in an article are coined at random: nothing can be learned from most of that loss, so it weighs less."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run does; the defaults are those of the shipped models."""

    steps: int
    batch_rows: int = 64
    peak_rate: float = 2e-3
    final_rate_share: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: int = 20
    log_every: int = 250

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine down to a small share of the peak."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak_rate * (self.final_rate_share + (1 - self.final_rate_share) * cosine)


def token_losses(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Return the loss of every token but the first of each row, shape (rows, length - 1)."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]  # (rows, length - 1, vocab)
    return functional.cross_entropy(logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none")


def train(model: PreTrainedModel, rows: PackedRows, plan: TrainingPlan, device: torch.device) -> dict[str, float]:
    """Train `model` in place and return the last losses and the seconds it took.

    Rows are drawn in a shuffled order, all of them once before any comes again.
    """
    on_gpu = device.type == "cuda"
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    model.to(device).train()
    # The whole training set stays on the device: 300,000 rows are 0.6 GB of tokens.
    tokens = torch.from_numpy(rows.tokens.astype(np.int16)).to(device)
    parts = torch.from_numpy(rows.parts).to(device)
    weight_of_part = torch.tensor([PART_WEIGHTS[part] for part in sorted(PART_WEIGHTS)], device=device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, plan), betas=(0.9, 0.95), fused=on_gpu)
    step_losses = torch.compile(token_losses) if on_gpu else token_losses
    order = np.random.default_rng(plan.seed)
    queue = np.empty(0, dtype=np.int64)
    # Steps done over the last stretch are averaged for the log.
    sums = torch.zeros(4, device=device)
    counts = torch.zeros(4, device=device)
    report: dict[str, float] = {}
    started = time.perf_counter()
    for step in range(plan.steps):
        if len(queue) < plan.batch_rows:
            queue = np.concatenate([queue, order.permutation(len(rows.tokens))])
        chosen = torch.from_numpy(queue[: plan.batch_rows]).to(device)
        queue = queue[plan.batch_rows :]
        batch = tokens[chosen].long()
        part = parts[chosen][:, 1:].long()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu):
            losses = step_losses(model, batch)
        weights = weight_of_part[part]
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        flat = part.flatten()
        sums.index_add_(0, flat, losses.detach().flatten().float())
        counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
        if (step + 1) % plan.log_every == 0 or step + 1 == plan.steps:
            means = (sums / counts.clamp(min=1)).tolist()
            sums.zero_()
            counts.zero_()
            report = {"article_loss": means[ARTICLE], "summary_loss": means[SUMMARY], "prose_loss": means[PROSE]}
            seconds = time.perf_counter() - started
            shown = "  ".join(f"{name} {value:.4f}" for name, value in report.items())
            print(f"step {step + 1:6d}  {seconds:7.1f} s  {shown}", flush=True)
    report["seconds"] = time.perf_counter() - started
    return report


def _parameter_groups(model: PreTrainedModel, plan: TrainingPlan) -> list[dict[str, object]]:
    """Decay matrices; leave norms, biases and embeddings alone."""
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        is_embedding = any(part in name for part in ("wte", "wpe", "embed_tokens"))
        (kept if parameter.dim() < 2 or is_embedding else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": kept, "weight_decay": 0.0}]
