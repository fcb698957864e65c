"""Recorders, one a backend: each runs a loaded engine on a bound step and gives its layers with times."""
