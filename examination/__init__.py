"""The tool's own examination: faults planted in networks that learn, and sound changes that must
raise no alarm.
"""
