"""Definitions of the metrics, by what they measure; the catalogue has all of them by tag."""
