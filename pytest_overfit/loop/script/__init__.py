"""A training script as it is, under test: run in a thread, its Datasets cut, its CTC losses
watched, its optimiser steps counted.

`process` runs a script and leaves the process as it was, `loaders` cuts what it draws from,
`watching` notes what reaches CTC, `survey` learns from one clip at a time how its network is called
and read, `subject` makes a subject of that.
"""
