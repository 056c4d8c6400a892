"""The health of a real training run: its log -> curves -> findings -> a verdict: healthy, go on, or
stop.
"""
