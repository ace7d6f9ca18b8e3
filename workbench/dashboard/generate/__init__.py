"""The page Generate: a diffusion transformer with and without a cache."""
