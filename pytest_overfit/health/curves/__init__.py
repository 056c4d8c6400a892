"""From rows of a log to the curves of a run: metrics by canonical names, in one unit, on one clock."""
