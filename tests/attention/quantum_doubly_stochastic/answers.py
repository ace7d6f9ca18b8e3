"""The lesson on doubly stochastic attention: the answers of its predictions."""

PREDICTIONS = {
    "last_half_step": "the rows",
    "opposite_scores": "the same map",
    "no_scores": "the identity",
    "causal": "exactly one",
    "light_cone": "6",
}
