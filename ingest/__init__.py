"""Contracts, validation and landing of raw events. Imports neither Dagster nor dbt."""
