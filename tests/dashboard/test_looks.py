"""Colours can be read: contrast of text and controls in the light and in the dark theme (WCAG AA)."""

import re
from pathlib import Path

import pytest

TOKENS = (Path(__file__).parents[2] / "workbench/dashboard/static/tokens.css").read_text(encoding="utf-8")
TEXT = [
    *(("ink", back) for back in ("ground", "surface", "sunk", "b-wash")),
    *(("muted", back) for back in ("ground", "surface", "sunk")),  # greyed text too: it carries the reason
    *(("accent", back) for back in ("ground", "surface")),
    *((front, "surface") for front in ("good", "bad", "a-ink", "b-ink")),
    *(("surface", "accent"), ("a-ink", "a-wash"), ("b-ink", "b-wash")),
]


def colours(theme):
    blocks = re.findall(r":root(\[[^\]]*\])? \{(.*?)\}", TOKENS, re.S)
    found = {}
    for selector, body in blocks:
        if not selector or theme in selector:
            found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", body))
    return found


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_4_5_and_controls_3(theme):
    found = colours(theme)
    for front, back in TEXT:
        assert contrast(found[front], found[back]) >= 4.5, (theme, front, back)
    for back in ("surface", "ground"):
        assert contrast(found["control-edge"], found[back]) >= 3, (theme, back)
