"""The recipe of the demo models: tokenizer, packed dataset, architecture, training, scoring, model card."""
