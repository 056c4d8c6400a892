"""Recipes and network variants searched at the rung where a network breaks, on Optuna.

space      what is chosen: recipe fields, and the subject's variants; grids by name or from a file
scores     how a trial is ranked, and where it stands on the ladder of losses
storage    the journal or database that trials are kept in, and which of them are still under way
climbing   one trial: a recipe climbs the rungs, watched, and is given up where others did better
running    trials until there are as many as were asked for, by any number of processes
result     the table, the importance of each parameter, the best recipe as a file
"""
