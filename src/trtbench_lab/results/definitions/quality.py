"""Quality: texts and numbers of a model against a reference, a baseline or another side; a plan against what came."""

from __future__ import annotations

from ..metric import HIGHER, LOWER, NEITHER, Metric

ROUGE = tuple(
    Metric(
        tag=f"rouge{variant}",
        title=f"ROUGE-{variant}",
        unit="",
        direction=HIGHER,
        formula="100 · median of the bootstrap's means over articles of F1 = 2PR/(P+R)",
        definition=(
            f"Overlap of {compared} between the summary and the reference, F-measure of the rouge-score package times "
            "100, no stemmer."
        ),
        trap=(
            "Values with and without stemming, or of other prompts and lengths, are not comparable. ROUGE hardly moves "
            "under damage by quantization: look at logit differences and entity accuracy too."
        ),
    )
    for variant, compared in (
        ("1", "single words"),
        ("2", "pairs of words"),
        ("L", "the longest common subsequence"),
        ("Lsum", "the longest common subsequence, line by line"),
    )
)

QUALITY = (
    Metric(
        tag="entity_accuracy",
        title="Entity accuracy",
        unit="%",
        direction=HIGHER,
        formula="100 · entities copied rightly / entities expected",
        definition="Share of the names and figures of the reference that the summary has.",
    ),
    Metric(
        tag="perplexity",
        title="Perplexity",
        unit="",
        direction=LOWER,
        formula="exp(mean negative log-likelihood a token)",
        definition="How surprised the model is by a held-out text, in nats a token, exponentiated.",
        trap="Only comparable between models with the same tokenizer.",
    ),
    Metric(
        tag="top1_agreement",
        title="Top-1 agreement",
        unit="%",
        direction=HIGHER,
        formula="100 · positions with equal argmax / positions",
        definition="Share of positions at which both sides would choose the same token, the history being the same.",
    ),
    Metric(
        tag="kl_divergence",
        title="KL divergence of the next token",
        unit="nats",
        direction=LOWER,
        formula="mean over positions of Σ p · ln(p / q), p the baseline's distribution, q the model's",
        definition=(
            "How much of what the baseline knows about the next token is lost, in nats a token; 0 for equal "
            "distributions."
        ),
        trap="It sees every token that could have come, so it grows before perplexity does.",
    ),
    Metric(
        tag="size_ratio",
        title="Size against the baseline",
        unit="×",
        direction=LOWER,
        formula="weights of the model / weights of the baseline, in bytes",
        definition="Weights as each side stores them.",
    ),
    Metric(
        tag="largest_relative_error",
        title="Largest relative error of a layer",
        unit="",
        direction=LOWER,
        formula="max over layers of ‖a − b‖ / ‖b‖",
        definition="Outputs of the layers on the same tokens, a of the model and b of the reference.",
    ),
    Metric(
        tag="token_agreement",
        title="Token agreement",
        unit="%",
        direction=HIGHER,
        formula="100 · equal tokens before the first divergence / tokens",
        definition=(
            "Share of the new tokens that are equal up to the first one that differs; what follows has another "
            "history."
        ),
    ),
    Metric(
        tag="max_abs_logit_difference",
        title="Largest logit difference",
        unit="",
        direction=LOWER,
        formula="max |logits A − logits B|",
        definition="Largest absolute difference of any logit on the same input.",
    ),
    Metric(
        tag="mean_abs_logit_difference",
        title="Mean logit difference",
        unit="",
        direction=LOWER,
        formula="mean |logits A − logits B|",
        definition="Absolute difference of a logit on the same input, averaged over the vocabulary and all positions.",
    ),
    Metric(
        tag="top1_accuracy",
        title="Top-1 accuracy",
        unit="%",
        direction=HIGHER,
        formula="100 · positions whose argmax is the text's token / positions",
        definition="Share of positions at which the side's first choice is the token that the text has there.",
    ),
    Metric(
        tag="prompts_diverged",
        title="Diverged prompts",
        unit="prompts",
        direction=LOWER,
        formula="prompts with a differing token",
        definition="Prompts whose new tokens are not all equal on both sides.",
        trap="One near tie is enough to diverge: look at the margins and the logit difference before worrying.",
    ),
    Metric(
        tag="prediction_error",
        title="Error of the prediction",
        unit="%",
        direction=NEITHER,
        formula="100 · (predicted − measured) / measured",
        definition=(
            "How far a plan made beforehand for the same model, mapping, quantization, machine and workload was off."
        ),
    ),
)
