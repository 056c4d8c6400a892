"""Other tasks, from their files to a climb: isolated signs, speech, text lines, lips.

Each reads the folder that EXAMPLE_DATA names.
"""
