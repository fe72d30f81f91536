"""Deriving again beside the live state: replay, the past, reconciliation."""
