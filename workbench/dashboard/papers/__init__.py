"""The page Papers: the gallery, and a page for every paper."""
