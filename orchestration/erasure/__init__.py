"""Erasing learners, from every table, file and log."""
