"""A rung: a fresh network trained on a few samples, attempt by attempt and seed by seed, and what
shows that it memorised them.
"""
