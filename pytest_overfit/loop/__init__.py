"""The user's own training under test: driven by the ladder, watched for what it promises, and told
apart from the network.

`loop` says what a loop is, `training` drives it as the ladder drives ours, `recorder` notes what it
does, `rehearsal` is a few watched steps that `contracts` read. `explain.exchange` puts parts of
ours into it.
"""
