"""The `warehouse` command, one file a family of commands."""
