"""The lesson on TaylorSeer: the answers of its predictions."""

PREDICTIONS = {
    "parabola": "no, it is off by −4 x at age x",
    "newton_far_away": "further away",
    "same_label": "as many as uncached",
}
