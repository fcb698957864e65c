"""Attention over a paged cache (`gpt_attention_plugin`): cache update, flash attention, split K/V decode."""
