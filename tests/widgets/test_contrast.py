"""Text in lessons can be read in both themes: contrast 4.5 and more, as WCAG asks for (AA)."""

import re

import pytest

from workbench.plots.style import INK
from workbench_widgets import page, source

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
TEXT = {"light": (33, 33, 33), "dark": WHITE}  # JupyterLab's
PAGE = {"light": WHITE, "dark": (17, 17, 17)}
# What JupyterLab's dark theme sets for comments, strings, numbers, names and keywords.
DARK = ("#408080", "#ba2121", "#66bb6a", "#1e88e5", "#4caf50")


def mixed(a, b, share):
    return tuple(share * x + (1 - share) * y for x, y in zip(a, b, strict=True))


def read(colour):
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return tuple(int(digits[place : place + 2], 16) for place in (0, 2, 4))


def contrast(text, ground):
    def light(colour):
        parts = [part / 255 for part in colour]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dim = sorted((light(text), light(ground)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_contrast_is_what_the_guidelines_say():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast(read("#767676"), WHITE) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", TEXT)
def test_code(theme):
    share = int(re.search(r"var\(--own, currentColor\) (\d+)%", source.COLOURS)[1]) / 100
    ground = mixed(
        (128, 128, 128), PAGE[theme], float(re.search(r"background: rgba\(128,128,128,([.\d]+)\)", source.COLOURS)[1])
    )
    colours = DARK if theme == "dark" else re.findall(r"--own: var\([\w-]+, (#\w+)\)", source.COLOURS)
    assert len(colours) == 5
    for colour in colours:
        assert contrast(mixed(read(colour), TEXT[theme], share), ground) >= 4.5, colour


@pytest.mark.parametrize("theme", TEXT)
def test_figures(theme, displayed):
    assert contrast(read(INK[theme]), PAGE[theme]) >= 4.5
    page.load_bokeh()
    assert INK[theme] in displayed.html, "the page is not told which ink its theme has"


@pytest.mark.parametrize("theme", TEXT)
def test_what_is_written_paler(theme):
    for style in (page.STYLE, source.COLOURS):
        for opacity in re.findall(r"opacity: ([.\d]+)", style):
            assert contrast(mixed(TEXT[theme], PAGE[theme], float(opacity)), PAGE[theme]) >= 4.5
