"""Whether the tests notice a rule that was changed: `make mutation`."""
