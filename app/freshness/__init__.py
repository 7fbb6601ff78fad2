"""How fresh documents become visible: traced, probed, and held against an objective."""
