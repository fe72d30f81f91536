"""Backups of what cannot be derived, and making a warehouse again: from a backup, from
what was published, or from the landing zone."""
