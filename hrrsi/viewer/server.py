"""Serves the viewer's page to this machine alone: descriptions, tiles, counts and points."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from rasterio.errors import EnvError

from hrrsi import __version__
from hrrsi.errors import HrrsiError, OptionError
from hrrsi.interruption import heeding_signals, stop_requested
from hrrsi.labels.scheme import load_scheme
from hrrsi.scenes.raster_opening import bounded_block_cache
from hrrsi.viewer import ViewOptions
from hrrsi.viewer.layers import ClosedError
from hrrsi.viewer.place_opening import open_places
from hrrsi.viewer.places import Place

HOST = "127.0.0.1"
# those that a browser of this machine, or a tunnel to it, asks for; a page of elsewhere whose name
# was made to mean this machine asks for that name
_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
_ASSETS = {
    "": ("view.html", "text/html; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "leaflet.js": ("leaflet.js", "text/javascript; charset=utf-8"),
    "leaflet.css": ("leaflet.css", "text/css; charset=utf-8"),
}
_TILE = re.compile(r"tile/(\d{1,4})/(\d{1,4})/(\d{1,2})/(\d{1,7})/(\d{1,7})\.png")
_POINT = re.compile(r"point/(\d{1,4})/(\d{1,9})/(\d{1,9})\.json")
_CLASS = re.compile(r"\d{1,3}")
_COUNTS = re.compile(r"counts/(\d{1,4})\.json")
_HEADERS = {
    # `data:` is Leaflet's empty picture; notebooks of this machine may frame the page
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self' http://localhost:* http://127.0.0.1:*",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_JSON = "application/json"
_WAIT_SECONDS, _LOOK_SECONDS = 0.2, 0.05  # for signals, and for the end


class Viewer:
    """Serves maps to a browser of this machine until it is closed. `hrrsi.view` returns one.

    Attributes:
        address: Of the page.
        notes: What a person should know of the files, in lines that start with what they are.

    Args:
        maps: As for `hrrsi.view`.
        scene: Likewise.
        labels: Likewise.
        options: Likewise.

    Raises:
        OptionError: The port is in use.
        InputError: As `hrrsi.view`.
    """

    def __init__(
        self,
        maps: str | Path | Sequence[str | Path],
        scene: str | Path | None,
        labels: str | Path | None,
        options: ViewOptions,
    ) -> None:
        paths = [maps] if isinstance(maps, str | Path) else list(maps)
        if not paths:
            raise OptionError("name a map", parameter="maps")
        notes: list[str] = []
        self._stack = ExitStack()
        try:
            server = self._stack.enter_context(_listening(options.port))
            self._stack.enter_context(bounded_block_cache())
            self._places = open_places(
                self._stack,
                [str(path) for path in paths],
                None if scene is None else str(scene),
                None if labels is None else str(labels),
                options,
                notes.append,
            )
        except BaseException:
            self._close_files()
            raise
        self.notes = tuple(notes)
        self.port = int(server.server_address[1])
        self.address = f"http://{HOST}:{self.port}/"
        server.pages = _Pages(self._places)
        self._server: _Server | None = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_LOOK_SECONDS,), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """Return what shows the page in a notebook."""
        return f'<iframe src="{self.address}" width="100%" height="640" style="border:0"></iframe>'

    def wait(self) -> None:
        """Wait until Ctrl-C, or SIGTERM, asks to stop, or the viewer is closed."""
        with suppress(KeyboardInterrupt), heeding_signals():  # it may have come before
            while self._server is not None and not stop_requested():
                time.sleep(_WAIT_SECONDS)

    def open_browser(self) -> bool:
        """Open the page in a browser, and return whether there was one on this screen."""
        if not has_screen():
            return False
        try:
            return webbrowser.open(self.address)
        except webbrowser.Error:
            return False

    def close(self) -> None:
        """Stop serving, and close the files; a second time does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        server.pages = None  # threads of a browser's open connections outlive the one that listens
        server.shutdown()
        self._thread.join()
        for place in self._places:
            place.close()
        self._close_files()

    def _close_files(self) -> None:
        # that a map was replaced meanwhile harms nobody any more, nor that another thread than the
        # one that opened them closes them, which rasterio's environment does not know
        with suppress(HrrsiError, EnvError):
            self._stack.close()


def view(
    maps: str | Path | Sequence[str | Path],
    *,
    scene: str | Path | None = None,
    labels: str | Path | None = None,
    options: ViewOptions = ViewOptions(),
) -> Viewer:
    """Show maps over their scenes in a page of this machine, and return what serves it.

    The page is served at 127.0.0.1 until the viewer is closed, and reads the rasters tile by tile,
    so that their size does not matter. Maps of the same place can be swiped against each other.

    Examples:
        >>> with hrrsi.view("scene_classes.tif") as viewer:  # doctest: +SKIP
        ...     print(viewer.address)
        ...     viewer.wait()  # until Ctrl-C
        >>> hrrsi.view("scene_classes.tif")  # doctest: +SKIP
        # in a notebook: the page itself, below the cell

    Args:
        maps: Class rasters, whatever tool made them, and folders of class rasters of hrrsi's.
        scene: The scene below them; by default the one that each was made of, where it is known
            and still there.
        labels: A raster or polygons, to compare the maps with.
        options: How they are read, and where the page is.

    Raises:
        OptionError: The port is in use, or options don't fit the files.
        InputError: A file can't be read, is no map of classes, or lies elsewhere than the map.
    """
    for name in ("label_format", "attribute"):
        if labels is None and getattr(options, name) is not None:
            raise OptionError(
                "is of labels, and there are none",
                parameter=name,
                fix="leave it out, or give `labels` too",
            )
    if options.scheme is not None:
        load_scheme(options.scheme)  # raises, also where nothing needs it
    return Viewer(maps, scene, labels, options)


def has_screen() -> bool:
    """Return whether a browser that this process opens would be seen by who started it."""
    if os.environ.get("BROWSER"):
        return True
    if any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_TTY")):
        return False
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_display or sys.platform in ("darwin", "win32")


def _listening(port: int) -> _Server:
    """Return a server that listens at a port of this machine.

    Raises:
        OptionError: It is in use, or not to be had.
    """
    try:
        return _Server((HOST, port), _Handler)
    except OSError as error:
        raise OptionError(
            f"{port} is not to be had ({error.strerror or error})",
            parameter="port",
            fix="give another one, or leave it out to get one that is free",
        ) from error


@dataclass(frozen=True)
class _Reply:
    """What a request is answered with."""

    content: bytes = b""
    kind: str = _JSON
    status: HTTPStatus = HTTPStatus.OK


_NOT_FOUND = _Reply(b"not found", "text/plain", HTTPStatus.NOT_FOUND)


class _Pages:
    """What there is to ask for; files are known by numbers, never by names.

    Args:
        places: What is shown.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places

    def reply(self, target: str) -> _Reply:
        """Return the answer to a request for a path, with what stands after its question mark."""
        try:
            address = urlsplit(target)
        except ValueError:  # no address at all
            return _NOT_FOUND
        path = address.path.removeprefix("/")
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            file = resources.files("hrrsi") / "viewer" / "assets" / name
            return _Reply(file.read_bytes(), kind)
        if path == "view.json":
            places = [place.described() for place in self._places]
            return _json({"version": __version__, "places": places})
        if match := _COUNTS.fullmatch(path):
            return self._counts(int(match[1]))
        if match := _POINT.fullmatch(path):
            return self._point(*map(int, match.groups()))
        if match := _TILE.fullmatch(path):
            hidden = parse_qs(address.query).get("hide", [""])[0]
            classes = [int(part) for part in hidden.split(",") if _CLASS.fullmatch(part)]
            return self._tile([int(number) for number in match.groups()], classes)
        return _NOT_FOUND

    def _counts(self, number: int) -> _Reply:
        if number >= len(self._places):
            return _NOT_FOUND
        place = self._places[number]
        place.count()
        return _json(place.counted())

    def _point(self, number: int, row: int, column: int) -> _Reply:
        if number >= len(self._places):
            return _NOT_FOUND
        place = self._places[number]
        if row >= place.grid.height or column >= place.grid.width:
            return _NOT_FOUND
        return _json(place.point(row, column))

    def _tile(self, numbers: Sequence[int], hidden: Sequence[int]) -> _Reply:
        place, layer, level, row, column = numbers
        if place >= len(self._places) or layer >= len(self._places[place].layers):
            return _NOT_FOUND
        content = self._places[place].layers[layer].tile(level, row, column, hidden)
        return _NOT_FOUND if content is None else _Reply(content, "image/png")


def _json(value: Any) -> _Reply:
    return _Reply(json.dumps(value, ensure_ascii=False).encode())


class _Server(ThreadingHTTPServer):
    """A thread for each request; those of the page that opens are many, and short."""

    daemon_threads = True
    pages: _Pages | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that left before its answer came."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers a browser's requests."""

    protocol_version = "HTTP/1.1"
    server_version = "hrrsi"
    sys_version = ""
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        """Answer a request."""
        self._send(self._reply())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no log."""

    def _reply(self) -> _Reply:
        name = re.sub(r":\d+$", "", self.headers.get("Host", "").strip().lower())
        if name not in _OWN_NAMES:
            words = b"this page is for 127.0.0.1 alone"
            return _Reply(words, "text/plain", HTTPStatus.MISDIRECTED_REQUEST)
        pages = self.server.pages
        if pages is None:
            words = b"hrrsi view begins or has ended"
            return _Reply(words, "text/plain", HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return pages.reply(self.path)
        except ClosedError:
            return _Reply(b"closed", "text/plain", HTTPStatus.SERVICE_UNAVAILABLE)
        except HrrsiError as error:
            return _Reply(
                str(error).encode(), "text/plain; charset=utf-8", HTTPStatus.INTERNAL_SERVER_ERROR
            )

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)
