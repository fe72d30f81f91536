"""Our progress beside that of the LMS."""
