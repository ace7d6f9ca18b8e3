"""The lesson on FlashAttention-2: the answers of its predictions."""

PREDICTIONS = {
    "arithmetic": "more",
    "new_update": "about 5 %",
    "occupancy": "less than 1 %",
}
