"""A shard: one partition's documents on disk, and the index in memory that answers for them."""
