"""The event contracts, what is generated from them, and whether a line satisfies one."""
