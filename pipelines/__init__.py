"""radet on Ray: thin adapters that put the core package on Ray Data (and later Train and Serve)."""
