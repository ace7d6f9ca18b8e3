"""Generation: how a sampler gets by with fewer calls of its network."""
