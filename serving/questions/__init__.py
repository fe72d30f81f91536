"""What people ask of the warehouse: one module for each subject, without any screen.

Every function takes a `Reader` and answers in its scope. Rows are dicts named like the
columns of the views that they come from; `docs/analytics.md` defines those.
"""
