"""From which size on a method pays, read from measurements."""

import pandas as pd

from workbench import catalog, measure
from workbench.measure import Crossover


def table(**times):
    rows = [
        {"method": "m", "implementation": name, "direction": "forward", "size": size, "status": "ok", "median_ms": ms,
         "low_ms": 0.95 * ms, "high_ms": 1.05 * ms}
        for name, sizes in times.items()
        for size, ms in sizes.items()
    ]  # fmt: skip
    return measure.frame(rows)


def only(**times):
    (found,) = measure.crossovers(table(**times))
    return found


def test_it_pays_from_the_size_after_the_last_at_which_it_is_behind():
    found = only(fast={1: 2.0, 2: 1.0, 4: 3.0, 8: 4.0, 16: 5.0}, slow={1: 1.0, 2: 2.0, 4: 2.0, 8: 8.0, 16: 20.0})
    assert found == Crossover("m", "", "forward", 8, 16, "slow", 4.0)
    assert str(found) == "m, forward: ahead from size 8 on (4.00 x as quick as slow at 16)."


def test_it_may_always_pay_or_never():
    assert only(fast={1: 1.0, 2: 1.0}, slow={1: 2.0, 2: 3.0}).size == 1
    found = only(fast={1: 1.0, 2: 4.0}, slow={1: 3.0, 2: 2.0})
    assert found.size is None and str(found) == "m, forward: not ahead up to size 2 (0.50 x as quick as slow at 2)."


def test_times_that_cannot_be_told_apart_are_level():
    found = only(fast={1: 1.0, 2: 1.0}, slow={1: 2.0, 2: 1.05})
    assert found.size is None and str(found) == "m, forward: level with slow at size 2."


def test_the_opponent_is_the_quickest_at_each_size():
    found = only(fast={1: 2.0, 2: 2.0}, a={1: 1.0, 2: 9.0}, b={1: 9.0, 2: 1.0})
    assert found.size is None and found.opponent == "b"


def test_what_has_no_time_and_no_opponent_does_not_count():
    assert list(measure.crossovers(table(fast={1: 1.0}))) == []
    assert list(measure.crossovers(table(slow={1: 1.0}))) == []
    missing = table(fast={1: 1.0, 2: 1.0}, slow={1: 2.0})
    missing = pd.concat([missing, table(slow={2: 0.1}).assign(status="wrong")])
    (found,) = measure.crossovers(missing)
    assert found.largest == 1 and found.size == 1


def test_every_recording_can_be_read():
    for slug in catalog.slugs():
        recorded = measure.recorded(slug)
        if recorded is not None:
            for each in measure.crossovers(recorded):
                assert each.ratio > 0 and each.method in str(each) and each.setting in str(each)
