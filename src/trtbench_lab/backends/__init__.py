"""Backends: one Builder and one Executor protocol, obeyed by each of them (see `protocol` and `registry`)."""
