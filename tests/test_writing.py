"""Numbers for people: one way of writing them, never the way a program reads them."""

import math
import re

import numpy as np
import pytest

from workbench import writing

# Also what the axes of a figure write, in the browser: see ``dashboard/test_legends.py``.
WRITTEN = {
    0.0: "0", 0.002: "0.002", 0.5: "0.5", 1.0: "1", 12.5: "12.5", 87.25: "87.2", 999.6: "1,000", 1250.0: "1,250",
    4266.3: "4,266", 123456.0: "123,456", 999999.4: "10⁶", 1.5e6: "1.5 × 10⁶", 0.0001: "0.0001", 0.000123: "0.000123",
    0.00009996: "0.0001", 5.3e-7: "5.3 × 10⁻⁷", 1e-16: "10⁻¹⁶", -0.25: "-0.25", -1e-9: "-10⁻⁹", 1e20: "10²⁰",
}  # fmt: skip


@pytest.mark.parametrize("value", WRITTEN)
def test_a_number_is_written_as_a_person_reads_it(value):
    assert writing.number(value) == WRITTEN[value]
    assert writing.number(np.float64(value)) == WRITTEN[value]


def test_counts_are_written_out_and_what_is_no_number_is_a_dash():
    assert writing.number(1234567) == writing.number(np.int64(1234567)) == "1,234,567"
    assert [writing.number(each) for each in (None, math.nan, math.inf, -math.inf)] == ["–", "–", "∞", "-∞"]
    assert writing.quantity(None, "ms") == "–" and writing.quantity(2.0, "") == "2"


def read(words):
    """The number that somebody reads."""
    sign, mantissa, power = re.fullmatch("(-?)(?:([0-9.]+) × )?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", words).groups()
    return float(f"{sign}{mantissa or 1}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}")


def test_no_digit_is_lost_that_was_asked_for():
    generator = np.random.default_rng(0)
    for value in 10 ** generator.uniform(-12, 12, 300) * generator.choice([-1, 1], 300):
        for digits in (1, 3, 6):
            words = writing.number(value, digits)
            found = read(words) if re.search("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", words) else float(words.replace(",", ""))
            assert found == pytest.approx(value, rel=0.51 * 10 ** (1 - digits)), words


def test_times_that_are_compared_have_one_unit():
    assert writing.duration(1250) == "1,250 ms" and writing.duration(0.0123) == "0.0123 ms"
    assert writing.duration(12_340) == "12.3 s" and writing.ratio(0.614) == "×0.614"
    assert [writing.about(each) for each in (0.2, 12, 200)] == ["less than a second", "12 s", "3 min"]


def test_a_vector_is_written_as_its_numbers():
    assert writing.vector(np.array([0.5, -1.23456, 1e-9, 0.0])) == "(0.5, -1.235, 10⁻⁹, 0)"
