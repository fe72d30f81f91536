"""The commands of `warehouse`, one file a family; `orchestration.cli` joins them.

A command reads its arguments, calls one function and prints what that returns:
`terminal` says how.
"""
