"""From files to `raw`: lines, their outcomes, catalogue snapshots, dead letters."""
