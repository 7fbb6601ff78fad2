"""The search gateway: public HTTP API and web page; holds no state of its own."""
