"""Findings: what can be wrong, one record for each, beside the code that detects it.

`record` says what a record is, `catalogue` gathers them, `examine` looks for what shows before any
training, `book` explains them without torch. Nothing is imported here: a plugin that is merely
installed must stay light.
"""
