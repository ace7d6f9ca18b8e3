"""The lesson on confidence-gated Taylor: the answers of its predictions."""

PREDICTIONS = {
    "keep_up_to_date": "it hardly ever refuses",
    "smooth_run": "no: it is no better",
    "small_model": "about 3 times",
}
