"""The one DuckDB file: how it is opened and written, and what `raw` holds."""
