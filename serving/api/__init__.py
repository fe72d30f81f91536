"""The read API: what is published, over HTTP as JSON, for the LMS's own pages.

It reads the newest snapshot and nothing else. docs/read-api.md says how it is run and
what it answers.
"""
