"""Intake: every kind of source model, opened, checked and offered tensor by tensor."""
