"""Whatever a link says, its page comes up: a sentence for each thing that cannot be, the nearest thing that can, and
everything else kept. The table of broken links is made from what each page asks a link for."""

from urllib.parse import quote

import pytest

import needs
from workbench import catalog
from workbench.dashboard.inspect.fitting import token_count
from workbench.dashboard.inspect.work import MOST_OTHERS, MOST_TOKENS
from workbench.dashboard.shell import state
from workbench.dashboard.shell.frame import PAGES, Shell
from workbench.dashboard.shell.jobs import Desk
from workbench.dashboard.shell.worker import Worker

pytestmark = needs.encoder

# Every page as it is opened first, and with what makes it ask for more.
OPENED = {
    **{slug: f"?page={slug}" for slug in PAGES},
    "an image": "?page=inspect&source=image&a.hierarchy=hierarchical_attention",
    "a polynomial": "?page=inspect&b.activation=poly_norm&b.doubly_stochastic=sinkhorn_attention",
    "a sweep of activations": "?page=measure&what=activation",
    "a small language": "?page=train&task=grammar",
    "cached twice": "?page=generate&a.caching=taylorseer&b.caching=confidence_gated_taylor",
    **{slug: f"?page=papers&slug={slug}" for slug in catalog.slugs()},
}
FREE = {"text", "with", "page"}  # any words will do; "page" says where
BROKEN = {
    "another word": "quantum leap",
    "an emoji": "🦊",
    "no number": "nan",
    "a huge number": "9" * 400,
    "infinity": "-1e999",
    "bytes that are no text": "%ff%fe",
    "a list": "1,,2;3",
    "markup": "<script>alert(1)</script>",
}


@pytest.fixture(scope="module")
def shell():
    """A visitor's dashboard whose jobs never begin."""
    worker = Worker()
    worker.stop(0)
    return Shell(Desk(worker, lambda callback: None))


def open_link(shell, link):
    """Open a link; what the visitor is told. The page is there, and the address bar holds a link that is right."""
    shell.go(link)
    told = list(shell.bridge.messages)
    assert shell.page is not None and list(shell.body) == [shell.page.view()], link
    assert all(each.endswith(".") and "\n" not in each and len(each) < 600 for each in told), told
    shown = shell.bridge.search
    shell.go(shown)
    assert shell.bridge.messages == [] and shell.bridge.search == shown, (link, shown, shell.bridge.messages)
    return told


def names(link, shell, monkeypatch):
    """What a page asks a link for."""
    asked = set()
    with monkeypatch.context() as patch:
        patch.setattr(state.Link, "left_over", lambda self, where: asked.update(self.asked) or [])
        shell.go(link)
    assert asked
    return sorted(asked - FREE)


@pytest.mark.parametrize("opened", OPENED)
def test_whatever_stands_in_a_link_its_page_comes_up(opened, shell, monkeypatch):
    """One wrong setting at a time: one sentence about it, and the same again when all of them are wrong."""
    link = OPENED[opened]
    shown = open_link(shell, link)
    assert shown == []
    found = names(link, shell, monkeypatch)
    kinds = list(BROKEN.values())
    for place, name in enumerate(found):
        given = kinds[place % len(kinds)]
        others = "".join(f"&{each}={value}" for each, value in state.split(link).items() if each not in ("page", name))
        told = open_link(shell, f"{link.split('&')[0]}{others}&{name}={quote(given, safe='%')}")
        assert any(name in each for each in told), (name, given, told)
    everything = "&".join(f"{name}={quote(kinds[place % len(kinds)], safe='%')}" for place, name in enumerate(found))
    told = open_link(shell, f"{link.split('&')[0]}&{everything}")
    assert 1 <= len(told) <= state.MOST_TOLD
    empty = "&".join(f"{name}=" for name in found)
    open_link(shell, f"{link.split('&')[0]}&{empty}")


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("?page=mesure", ["'measure' instead"]),
        ("?page=zzz&layer=1000&b.attention=quantum", ["page", "layer", "b.attention"]),
        ("?page=inspect&layer=99&head=-1", ["(choose a whole number from 0 to 5): it is '5'", "it is '0'"]),
        ("?page=inspect&layer=1&layer=2", ["'layer' 2 times: the last one counts"]),
        ("?page=inspect&b.atention=softmax_attention&zzz=1", ["is b.attention meant?", "'zzz', which Inspect"]),
        ("?page=inspect&b.attention=flash_atention_2", ["it is 'flash_attention_2' instead"]),
        ("?page=inspect&b.attention=poly_norm", ["b.attention = 'poly_norm' cannot be"]),
        ("?page=inspect&b.activation=swiglu", ["B · Activation: SwiGLU cannot be here"]),
        ("?page=inspect&text=", ["text is empty"]),
        ("?page=inspect&text=%20%09", ["text is empty"]),
        ("?page=inspect&text=" + "a+" * 900, [f"more than the {MOST_TOKENS} tokens"]),
        ("?page=inspect&text=" + "b" * 5000, ["5,000 characters"]),
        ("?page=inspect&text=" + "b" * 20_000, ["longer than 16,000", "characters, and at most"]),
        ("?page=inspect&text=%ff", ["holds bytes that are no text"]),
        ("?page=inspect&with=" + "|".join(map(str, range(30))), [f"at most {MOST_OTHERS} are shown"]),
        ("?page=inspect&b.hierarchy=hierarchical_attention&text=a+b&splits=2,3,99", ["begins at place 3, 99"]),
        ("?page=inspect&source=image&layer=5&patch=40", ["patch = '40'", "layer = '5'"]),
        ("?page=inspect&" + "&".join(f"x{n}=1" for n in range(300)), ["'x0'"] + [""] * 6 + ["293 more things"]),
        ("?page=measure&run=softmax_attention:fast,magic:fast", ["'magic:fast'"]),
        ("?page=measure&from=100", ["it is '128' instead"]),
        ("?page=measure&recorded=yesterday", ["nothing of that name was recorded"]),
        ("?page=train&task=grammar&b.doubly_stochastic=sinkhorn_attention", ["B · Doubly stochastic"]),
        ("?page=train&a.mixing=none&a.feed_forward=off", ["nothing would be left of a block"]),
        ("?page=train&steps=1000000", ["it is '5000' instead"]),
        ("?page=generate&count=17", ["it is '20' instead"]),
        ("?page=papers&slug=policom", ["it is 'polycom' instead"]),
        ("?page=papers&method=gelu", ["'method', which Papers does not have"]),
        ("?%00%ff=%%%", ["no text", "which Inspect does not have"]),
        ("?&&&===", ["which Inspect does not have"]),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_told(link, told, shell):
    found = open_link(shell, link)
    assert len(found) == len(told) and all(map(str.__contains__, found, told)), found


def test_what_was_right_in_a_broken_link_is_kept(shell):
    shell.go("?page=inspect&layer=99&head=4&b.attention=nothing&b.activation=relu&text=All+is+well.&scales=both")
    page = shell.page.state
    assert (page.layer, page.head, page.text, page.scales) == (5, 4, "All is well.", "shared")
    assert page.b.methods["activation"] == "relu"


@pytest.mark.parametrize("word", ["a ", "über ", "中", "🦊 ", "x-"])
def test_a_text_that_is_too_long_ends_where_it_can_be_drawn(word, shell):
    shell.go(f"?page=inspect&text={quote(word * 700)}")
    shown = shell.page.state.text
    assert (word * 700).startswith(shown) and MOST_TOKENS - 4 <= token_count(shown) <= MOST_TOKENS


def test_a_view_that_fails_shows_its_page_without_the_link(shell, monkeypatch):
    shell.go("?page=inspect")
    monkeypatch.setattr(type(shell.page.state), "read", lambda self, link: 1 / 0 if "head" in link else [])
    shell.go("?page=inspect&head=3")
    assert shell.page.slug == "inspect" and "could not be shown" in shell.bridge.messages[0]


def test_messages_add_up_and_each_can_be_dismissed(shell):
    shell.go("?page=inspect&layer=99&head=99")
    link = list(shell.bridge.messages)
    assert len(link) == 2
    shell.say("One thing.")
    shell.say("Another.")
    shell.say("One thing.")
    assert shell.bridge.messages == [*link, "One thing.", "Another."]
    shell.receive({"kind": "heard", "text": link[0]})
    assert shell.bridge.messages == [link[1], "One thing.", "Another."]
    shell.say("")
    assert shell.bridge.messages == link[1:]
    shell.go("?page=measure")
    assert shell.bridge.messages == []
