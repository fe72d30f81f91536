"""Events on disk before they are landed: the files that a producer writes."""
