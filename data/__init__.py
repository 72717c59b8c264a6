"""From bytes to batches. Imports no other room."""
