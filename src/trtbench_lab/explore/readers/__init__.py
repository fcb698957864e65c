"""Readers, one a form: each gives layers, and says what it could not tell."""
