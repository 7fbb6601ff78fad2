"""The Faust side of the embed and index workers: thin. The logic is in app."""
