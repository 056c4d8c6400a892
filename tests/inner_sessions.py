"""Sessions of pytest within a test."""

WITHOUT = "-p no:benchmark -p no:hypothesispytest -p no:anyio"
"""Options that leave out plugins which no inner session needs: hypothesis alone takes most of a
second of each process.
"""
