"""The lesson on hierarchical self-attention: the answers of its predictions."""

PREDICTIONS = {
    "average": "softmax, averaged over every block",
    "both_ends": "at 1 and at 64",
    "whose_rows": "those of tokens 0 to 3",
    "cheapest_group": "16",
}
