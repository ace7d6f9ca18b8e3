"""Feed-forward: what happens to each token by itself."""
