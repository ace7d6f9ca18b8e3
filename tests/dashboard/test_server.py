"""The server around the pages: what it answers before there is a page, and how it ends."""

import http.client
from urllib.parse import urlsplit

import pytest


@pytest.mark.parametrize("search", ["", "?page=measure", "?page=inspect&text=a%20b%26c+d"])
def test_a_link_to_the_server_alone_keeps_what_it_asks_for(server, search):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request("GET", "/" + search)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Location"]) == (302, "./dashboard" + search)
    finally:
        connection.close()


def test_such_a_link_opens_its_view(visit, server):
    page = visit()
    page.goto(server.removesuffix("/dashboard") + "/?page=measure")
    page.get_by_role("button", name="Run").wait_for()
    assert urlsplit(page.url).path == "/dashboard" and "page=measure" in page.url
