"""The lesson on doubly stochastic attention: the answers of its predictions."""

PREDICTIONS = {
    "larger_scores": "more than 15 times as many",
    "opposite_scores": "the same map",
    "no_scores": "the identity",
    "causal": "exactly one",
    "light_cone": "6",
}
