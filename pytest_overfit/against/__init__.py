"""Two commits compared in one run: does a change learn worse than what it departs from, and which
part of it does?

Golden numbers rot and differ between machines; two sides measured in turn on one machine do not.
`sides` runs each side's code in a process of its own, `course` takes one side up a rung, `pairing`
takes both up in turn (A B B A), `verdict` decides over seeds.
"""

TOLERANCE = 1.25
"""The ratio of steps, or of the time of one, up to which a change is not worse."""
MOST_PAIRS = 12
"""Pairs of climbs of one rung, after which nobody is accused."""
