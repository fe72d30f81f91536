"""What readers get: the published snapshot, and sandboxes made of it."""
