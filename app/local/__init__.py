"""One machine: embedded or local services, the roles as child processes, and text to index."""
