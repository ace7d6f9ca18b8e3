"""The lesson on FlashAttention-2: the answers of its predictions."""

PREDICTIONS = {
    "arithmetic": "as much, to within 5 %",
    "new_update": "about 5 %",
    "occupancy": "less than 1 %",
}
