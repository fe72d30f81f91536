"""How Dagster's runs get their processes, and what an instance of it keeps of them."""
