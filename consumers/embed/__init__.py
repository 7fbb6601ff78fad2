"""The embed worker's process."""
