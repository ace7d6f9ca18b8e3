"""The lesson on hierarchical self-attention: the answers of its predictions."""

PREDICTIONS = {
    "average": "hierarchical attention",
    "both_ends": "at 1 and at 64",
    "same_share": "all the same part",
    "cheapest_group": "16",
}
