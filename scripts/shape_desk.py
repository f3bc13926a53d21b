"""One shaping session that several tabs look at: one of them edits, the others follow.

Requests run one at a time on a thread of their own, so that the page answers meanwhile. Every
accepted one is written to the record before its answer is told.
"""

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import Protocol

import numpy as np

from engine.optimization.shaping_requests import Request, RequestRefused
from engine.optimization.shaping_session import ShapingSession

_log = logging.getLogger(__name__)

Deed = Callable[[ShapingSession], str]  # changes the session, returns what to say


class Seat(Protocol):
    """A tab, as the desk knows it."""

    def notify(self) -> None:
        """Look at the desk again; may be called from any thread."""


@dataclass(frozen=True, eq=False)
class Shaped:
    """The dose after some requests; ``number`` counts the changes."""

    dose_gy: np.ndarray  # (n_rows,)
    can_undo: bool
    can_redo: bool
    number: int


@dataclass(frozen=True, eq=False)
class Message:
    """Words for the person; ``kind`` is working, answer, refused or failed."""

    kind: str
    text: str


class ShapeDesk:
    """Shares a session among tabs; all that changes goes through ``ask``."""

    def __init__(
        self, session: ShapingSession, title: str, record_path: Path | None = None,
        about: dict | None = None,
    ):  # fmt: skip
        self.session, self.title, self.about = session, title, dict(about or {})
        self.record_path = None if record_path is None else Path(record_path)
        self._refuse_other_record()
        self._lock = RLock()
        self._worker = ThreadPoolExecutor(1, "shape")
        self._seats: list[Seat] = []
        self._editor: Seat | None = None
        self._is_busy = False
        self.shaped = self._look(0)
        self.message = Message("answer", "Choose what a click does, then click in a picture.")

    # ------------------------------------------------------------------------------------ tabs

    def join(self, seat: Seat) -> None:
        """A tab opens; it edits where no other does."""
        with self._lock:
            self._seats.append(seat)
            self._editor = self._editor or seat
        self._notify()

    def leave(self, seat: Seat) -> None:
        """A tab closes; where it was the editor nobody edits until one takes over."""
        with self._lock:
            self._seats = [s for s in self._seats if s is not seat]
            self._editor = None if self._editor is seat else self._editor
        self._notify()

    def take_over(self, seat: Seat) -> None:
        """This tab edits from now on, the one that did follows."""
        with self._lock:
            self._editor = seat
        self._notify()

    def is_editor(self, seat: Seat) -> bool:
        return self._editor is seat

    @property
    def has_editor(self) -> bool:
        return self._editor is not None

    # -------------------------------------------------------------------------------- requests

    def ask(self, seat: Seat, deed: Deed) -> str | None:
        """Carry out a deed on the session, later; returns why not where it is not taken on."""
        with self._lock:
            if not self.is_editor(seat):
                return "This tab follows another one; press 'Edit here' to shape the dose in it."
            if self._is_busy:
                return "The last request is still being worked on; ask again when it is answered."
            self._is_busy = True
            self.message = Message("working", "Working …")
            self._worker.submit(self._carry_out, deed)
        self._notify()
        return None

    def close(self) -> None:
        """Take on nothing more and wait for the request under way."""
        with self._lock:
            self._editor = None
        self._worker.shutdown(wait=True)

    def _carry_out(self, deed: Deed) -> None:
        began, n_before = perf_counter(), len(self.session.record)
        try:
            message = Message("answer", deed(self.session))
        except RequestRefused as refusal:
            message = Message("refused", f"Refused: {refusal}")
        except Exception as error:  # a person's work must outlive whatever goes wrong here
            _log.exception("a request failed")
            message = Message(
                "failed", f"The request failed and the plan is as it was: {error!r}. Try another."
            )
        if len(self.session.record) != n_before:
            message = self._saved(message)
            self.shaped = self._look(self.shaped.number + 1)
        seconds = perf_counter() - began
        with self._lock:
            self.message = Message(message.kind, f"{message.text} ({seconds:.2f} s)")
            self._is_busy = False
        self._notify()

    def _look(self, number: int) -> Shaped:
        session = self.session
        return Shaped(session.dose_gy.copy(), session.can_undo, session.can_redo, number)

    def _notify(self) -> None:
        with self._lock:
            seats = list(self._seats)
        for seat in seats:
            seat.notify()

    # ---------------------------------------------------------------------------------- record

    def save(self) -> None:
        """Write the record: a new file under another name first, so that no crash leaves half."""
        if self.record_path is None:
            raise RequestRefused("record_path was not given, there is nowhere to save to.")
        plain = {"title": self.title, **self.about, "requests": self.session.record}
        self.record_path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.record_path.with_name(self.record_path.name + ".part")
        unfinished.write_text(json.dumps(plain, indent=1, default=float), encoding="utf-8")
        os.replace(unfinished, self.record_path)

    def _saved(self, message: Message) -> Message:
        """The message, after the record was written; says so where it could not be."""
        if self.record_path is None:
            return message
        try:
            self.save()
        except OSError as error:
            _log.exception("the record could not be written")
            return Message("failed", f"{message.text} But the record could not be saved: {error}.")
        return message

    def _refuse_other_record(self) -> None:
        """A file of other work is not written over; one that the session continues is."""
        if self.record_path is None or not self.record_path.exists():
            return
        done = json.loads(json.dumps(self.session.record, default=float))
        try:
            kept = json.loads(self.record_path.read_text(encoding="utf-8"))["requests"]
        except (ValueError, KeyError, TypeError):
            kept = None
        if kept is None or done[: len(kept)] != kept:
            raise ValueError(
                f"record_path={str(self.record_path)!r} exists and holds other work; choose "
                "another name, or play its requests on the session first."
            )


def requested(request: Request) -> Deed:
    """The deed of a request."""
    return lambda session: session.request(request).text


def undone(session: ShapingSession) -> str:
    session.undo()
    return "undone: back to the plan before the last request."


def redone(session: ShapingSession) -> str:
    session.redo()
    return "redone: forth to the plan that was undone last."
