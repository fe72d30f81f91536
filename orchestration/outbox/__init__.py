"""Signals for other systems: integration events, and their delivery."""
