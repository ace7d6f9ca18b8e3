"""The lesson on the Activator: the answers of its predictions."""

PREDICTIONS = {
    "shuffled_patches": "not at all",
    "ten_times_the_value": "the same output",
    "cheaper_variant": "only B",
}
