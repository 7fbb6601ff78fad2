"""Comparing the topics with the shards and with Redis, and mending what differs: `headrace audit`."""
