"""The page Inspect: attention maps of two configurations, on a text or an image."""
