"""The lesson on PolyCom: the answers of its predictions."""

PREDICTIONS = {
    "ten_times": "the same output",
    "one_outlier": "they shrink",
    "pieces_for_a_square": "about 350",
    "memory_kept": "6",
}
