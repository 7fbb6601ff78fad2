"""Dead letters: reading them, choosing among them, telling them, and replaying them."""
