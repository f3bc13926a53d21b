"""Serves the page of dose shaping to this machine alone; BokehJS comes from the package."""

import asyncio
from pathlib import Path
from threading import Event, Thread

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from engine.optimization.shaping_session import ShapingSession
from scripts.shape_desk import ShapeDesk
from scripts.shape_page import ShapedView, ShapePage

LOOPBACK = "127.0.0.1"
FAREWELL_S = 0.2  # for closing handshakes of open pages


class ShapeServer:
    """A page for one session, on a thread of its own, until ``stop`` or Ctrl+C in ``wait``.

    Whoever has an account on this machine can open it; nobody else can. ``record_path`` is
    written after every request; a file of other work there is refused. ``about`` (JSON values) is
    written into it beside the requests.
    """

    def __init__(
        self, session: ShapingSession, view: ShapedView, record_path: Path | None = None,
        about: dict | None = None,
    ):  # fmt: skip
        view.check(session.scene)
        self.desk = ShapeDesk(session, view.title, record_path, about)
        self._view = view
        self._ready = Event()
        self._failure: Exception | None = None
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None

    def start(self, port: int = 0) -> str:
        """Begin to listen, on a free port by default; returns the address of the page."""
        if self._thread is not None:
            raise RuntimeError("this ShapeServer was started already; make another one.")
        self._thread = Thread(
            target=lambda: asyncio.run(self._serve(port)), name="shape-server", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self.url

    def stop(self) -> None:
        """Finish the request under way, tell open pages, and listen no more."""
        if self._thread is None or not self._thread.is_alive():
            return
        self.desk.close()
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join()

    def wait(self) -> None:
        """Until the server stops; Ctrl+C stops it."""
        try:
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(timeout=1.0)  # an endless join is deaf to Ctrl+C on Windows
        except KeyboardInterrupt:
            self.stop()

    async def _serve(self, port: int) -> None:
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        try:
            server, pages = self._listen(port)
        except OSError as error:
            self._failure = OSError(
                f"port={port} of {LOOPBACK} cannot be used ({error}); choose another, or 0 for a "
                "free one."
            )
            return
        except Exception as error:  # told by start, on the thread that asked
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._leaving.wait()
        pages.close_sockets()
        await asyncio.sleep(FAREWELL_S)
        server.stop()
        server.unlisten()
        await asyncio.sleep(0)

    def _listen(self, port: int) -> "tuple[BaseServer, _Pages]":
        sockets = bind_sockets(port, LOOPBACK)
        port = sockets[0].getsockname()[1]
        self.url = f"http://{LOOPBACK}:{port}/"
        pages = _Pages(
            {"/": Application(FunctionHandler(self._open))},
            extra_websocket_origins=[f"{LOOPBACK}:{port}", f"localhost:{port}"],
        )
        http = HTTPServer(pages)
        server = BaseServer(IOLoop.current(), pages, http)
        server.start()
        http.add_sockets(sockets)
        return server, pages

    def _open(self, document) -> None:
        ShapePage(self.desk, self._view).attach(document)


class _Pages(BokehTornado):
    """Remembers the sockets of open pages: Bokeh itself leaves them open when it stops."""

    def __init__(self, *args, **settings):
        self._sockets = []
        super().__init__(*args, **settings)

    def new_connection(self, protocol, socket, application_context, session):
        self._sockets.append(socket)
        return super().new_connection(protocol, socket, application_context, session)

    def client_lost(self, connection) -> None:
        self._sockets = [s for s in self._sockets if s.connection is not connection]
        super().client_lost(connection)

    def close_sockets(self) -> None:
        for socket in self._sockets:
            socket.close(1001, "the server stops")
