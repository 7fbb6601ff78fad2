"""The index worker's process."""
