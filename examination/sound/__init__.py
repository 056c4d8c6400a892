"""Sound networks of the field that are not ours: what the tool says of them, which ought to be
nothing that fails.
"""
