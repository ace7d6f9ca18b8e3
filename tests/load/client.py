"""One visitor without a browser: it speaks the protocol of the page's script, and times its clicks.

Fifty browsers would need more than the machine that serves them; what the server has to do for a visitor is the same.
"""

import asyncio
import json
import re
import time
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

LARGEST = 2**28  # bytes of one message
PATIENCE = 120.0  # seconds until a click counts as lost


class Visitor:
    """A session of the dashboard. ``fields`` are its controls, by (component, name); ``search`` is its link."""

    def __init__(self, page):
        self.page = page
        self.fields = {}
        self.data_of = {}  # the model that holds a component's values -> the component
        self.bridge = self.bridge_data = None
        self.search, self.status, self.messages = "", {}, []
        self.heard = 0  # how often the page showed another link, or a message
        self.changed = asyncio.Event()
        self.lost = ""
        self.drawn = []  # what is being said about figures that were drawn
        self._count = 0
        self._sending = asyncio.Lock()

    async def open(self, address, search):
        """Load the page and connect, as a browser does; returns the seconds until the page could be used."""
        start = time.monotonic()
        answer = await AsyncHTTPClient().fetch(address + search, request_timeout=PATIENCE)
        token = re.search(r'"token":"([^"]+)"', answer.body.decode()).group(1)
        parts = urlsplit(address)
        self._socket = await websocket_connect(
            f"ws://{parts.netloc}{parts.path}/ws", subprotocols=["bokeh", token], max_message_size=LARGEST
        )
        await self._receive()  # ACK
        await self._send("PULL-DOC-REQ", {})
        kind, content = await self._receive()
        while kind != "PULL-DOC-REPLY":
            kind, content = await self._receive()
        self._learn(content)
        self._reader = asyncio.create_task(self._read())
        await self._event({"type": "event", "name": "document_ready", "values": _map({})})
        return time.monotonic() - start

    async def close(self):
        self._reader.cancel()
        self._socket.close()

    # --- what a person does ---

    async def turn(self, component, name, value):
        """Set a control; the seconds until the page shows that it was heard: another link, or a message."""
        return await self._until_heard({"name": name, "value": value}, component)

    async def go(self, search):
        """Follow a link inside the dashboard; seconds as for ``turn``."""
        return await self._until_heard({"kind": "go", "search": search}, self.bridge)

    async def press(self, component, name):
        """Press a button; the seconds until the status line says that something is under way."""
        start = time.monotonic()
        await self._data(component, {"name": name, "value": self.fields[component, name]["sends"]})
        await self._wait(lambda: self.busy, name)
        return time.monotonic() - start

    @property
    def busy(self):
        return bool(self.status.get("busy"))

    async def _until_heard(self, data, component):
        before, start = self.heard, time.monotonic()
        await self._data(component, data)
        await self._wait(lambda: self.heard != before, data)
        return time.monotonic() - start

    async def _wait(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.lost:
                raise ConnectionError(self.lost)
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), max(0.001, end - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"no answer to {what} at {self.search}") from None

    # --- the protocol ---

    async def _send(self, kind, content):
        async with self._sending:  # the parts of a message follow each other
            self._count += 1
            for part in ({"msgid": f"{id(self)}-{self._count}", "msgtype": kind}, {}, content):
                await self._socket.write_message(json.dumps(part))

    async def _event(self, event):
        change = {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}
        await self._send("PATCH-DOC", {"events": [change]})

    async def _data(self, component, data):
        values = {"model": {"id": component}, "data": _map(data)}
        await self._event({"type": "event", "name": "data_event", "values": _map(values)})

    async def _receive(self):
        header = json.loads(await self._part())
        await self._part()
        content = json.loads(await self._part())
        for _ in range(2 * header.get("num_buffers", 0)):
            await self._part()
        return header["msgtype"], content

    async def _part(self):
        part = await self._socket.read_message()
        if part is None:
            raise ConnectionError("the server closed the connection")
        return part

    async def _read(self):
        try:
            while True:
                kind, content = await self._receive()
                if kind == "PATCH-DOC":
                    for event in content["events"]:
                        self._apply(event)
                    self.changed.set()
                elif kind == "ERROR":
                    self.lost = str(content)[:500]
                    self.changed.set()
        except ConnectionError as error:
            self.lost = str(error)
            self.changed.set()

    def _apply(self, event):
        if event["kind"] != "ModelChanged":
            return
        model, name, new = event["model"]["id"], event["attr"], event["new"]
        if model in self.data_of and name == "fields":
            self._take(self.data_of[model], new)
        elif model == self.bridge_data and name in ("search", "status", "messages"):
            setattr(self, name, _plain(new))
            self.heard += name != "status" and bool(new)
        elif name == "children":
            self._learn(new)

    def _learn(self, part):
        """Find forms and the frame's bridge in a document, or in a part of one."""
        if isinstance(part, list):
            for each in part:
                self._learn(each)
        elif isinstance(part, dict):
            component = part.get("name") == "panel.models.esm.ReactiveESM"
            values = part.get("attributes", {}).get("data") if component else None
            if isinstance(values, dict) and values.get("name", "").startswith("Form"):
                self.data_of[values["id"]] = part["id"]
                self._take(part["id"], values["attributes"].get("fields", []))
            elif isinstance(values, dict) and values.get("name", "").startswith("Figure"):
                have = _plain(values["attributes"].get("drawing", {})).get("count", 0)
                self.drawn.append(asyncio.ensure_future(self._data(part["id"], {"have": have})))
            elif isinstance(values, dict) and values.get("name", "").startswith("Bridge"):
                self.bridge, self.bridge_data = part["id"], values["id"]
                self.search = values["attributes"].get("search", "")
            else:
                for each in part.values():
                    self._learn(each)

    def _take(self, component, fields):
        self.fields = {place: field for place, field in self.fields.items() if place[0] != component}
        for field in map(_plain, fields):
            self.fields[component, field["name"]] = field


def _map(values):
    return {"type": "map", "entries": list(values.items())}


def _plain(value):
    """A map of the protocol as a dictionary."""
    if isinstance(value, dict) and value.get("type") == "map":
        return {name: _plain(each) for name, each in value.get("entries", [])}
    return [_plain(each) for each in value] if isinstance(value, list) else value
