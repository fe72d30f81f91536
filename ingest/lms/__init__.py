"""Moving in from the database of the LMS."""
