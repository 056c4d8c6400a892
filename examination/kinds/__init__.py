"""Kinds of faults from public reports, planted in networks of ours and in foreign ones."""
