"""Trust in an engine: side by side with Hugging Face, ROUGE on summaries, perplexity.

Each verb is a module with a function of its name: `compare.compare`, `summarize.summarize`, `perplexity.perplexity`.
"""
