"""Loops of training with planted faults and with sound changes, in three kinds, and what the tool
says of each.
"""
