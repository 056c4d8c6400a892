"""Explaining a broken rung: the evidence that detectors read, the diagnosis, and the trials that
confirm a cause.
"""
