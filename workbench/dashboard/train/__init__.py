"""The page Train: two small models racing."""
