"""Does each test end the same way on every processor?

Variants of this machine stand in for other ones: `python -m tests.portability`.
"""
