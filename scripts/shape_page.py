"""The page on which a person shapes a dose by hand: three cuts, histograms, a row of controls.

Figures are built once; requests and moves of the cuts only change their data. Dose is known where
voxels are planned, and nothing is drawn elsewhere.
"""

from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from bokeh.events import (
    ConnectionLost,
    DocumentReady,
    MouseLeave,
    MouseMove,
    Pan,
    PanEnd,
    PanStart,
    PointEvent,
    Tap,
)
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CheckboxButtonGroup,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    LinearColorMapper,
    RadioButtonGroup,
    Range1d,
    Select,
    Slider,
    Span,
    Spinner,
)
from bokeh.palettes import Turbo256
from bokeh.plotting import figure

from engine.optimization.shaping_requests import (
    DvhPoint,
    IsodoseDrag,
    IsodosePush,
    RequestRefused,
    Scene,
    VoxelRequest,
    possible_radius,
)
from engine.optimization.shaping_session import ShapingSession
from scripts.shape_desk import Deed, Message, ShapeDesk, redone, requested, undone
from scripts.shape_drawing import (
    N_DOSES,
    PLANES,
    Plane,
    gray,
    histograms,
    nearest_level,
    on_grid,
)

MODES = ("crosshair", "voxel", "isodose line", "isodose surface")
HINTS = (
    "Click in a picture to cut the others there.",
    "Click a voxel to give it the dose of the field 'voxel dose'.",
    "Drag an isodose line from where it is to where it shall be.",
    "Click beside an isodose surface to push it with a ball: away where the dose is above it, "
    "over the ball where it is below.",
)
HISTOGRAM_HINT = "Click or drag in the histogram to move the curve of the chosen structure there."
LEVELS = {55: "#4cc9f0", 80: "#57cc99", 95: "#ffffff", 107: "#ff4d6d"}  # percent: color
NEAREST = "nearest"
STRUCTURES = ("#e83fd0", "#2a9df4", "#2ec4b6", "#c77dff", "#f4a261", "#80b918", "#b5651d")
TONES = {"working": "#8a6d00", "answer": "#1b5e20", "refused": "#9c4600", "failed": "#b00020"}
WASH_FROM, WASH_TO, WASH_ALPHA = 0.1, 1.25, 0.5  # shares of the highest prescription
SHAPES_PX = {"axial": (430, 430), "coronal": (300, 180), "sagittal": (300, 180)}
HISTOGRAM_PX = (320, 430)
LOST = "The server has stopped; "

# What the browser does alone, so that it follows the pointer: the way of a drag, the brush.
WAY_STARTS = "way.data = {x: [cb_obj.x, cb_obj.x], y: [cb_obj.y, cb_obj.y]}"
WAY_GROWS = (
    "if (way.data.x.length) way.data = {x: [way.data.x[0], cb_obj.x], y: [way.data.y[0], cb_obj.y]}"
)
WAY_ENDS = "way.data = {x: [], y: []}"
BRUSH_LEAVES = "spot.data = {x: [], y: [], r: []}"
BRUSH_MOVES = (
    "if ({used}) spot.data = {{x: [cb_obj.x], y: [cb_obj.y], r: [radius.value ?? 0]}}; "
    "else if (spot.data.x.length) spot.data = {{x: [], y: [], r: []}}"
)
FAREWELL = (
    "lost.text = text; lost.visible = true; role.text = ''; "
    "for (const control of closed) control.disabled = true"
)


@dataclass(frozen=True, eq=False)
class ShapedView:
    """What the page draws besides the session.

    ``hu`` (nz, ny, nx) and every mask lie on the grid of the session's scene, targets first;
    structures without a prescription are organs.
    """

    title: str
    hu: np.ndarray
    masks: dict[str, np.ndarray]
    prescription_gy: dict[str, float]

    def __post_init__(self):
        for name, mask in self.masks.items():
            if np.shape(mask) != np.shape(self.hu):
                raise ValueError(
                    f"masks[{name!r}] has shape {np.shape(mask)}, hu {np.shape(self.hu)}; both "
                    "must lie on the grid of the scene."
                )
        unknown = [name for name in self.prescription_gy if name not in self.masks]
        if unknown or not self.prescription_gy:
            raise ValueError(
                f"prescription_gy={self.prescription_gy} must name one target or more of "
                f"{list(self.masks)}."
            )
        if not self.highest_gy > 0:
            raise ValueError(f"prescription_gy={self.prescription_gy} must be positive.")

    @property
    def highest_gy(self) -> float:
        """The highest prescription, which isodose lines are percents of."""
        return float(max(self.prescription_gy.values()))

    def level_gy(self, percent: int) -> float:
        return percent * self.highest_gy / 100  # in this order 95 % of 60 Gy are 57.0

    def check(self, scene: Scene) -> None:
        """Refuses a scene on another grid."""
        if np.shape(self.hu) != scene.grid.shape:
            raise ValueError(
                f"hu has shape {np.shape(self.hu)}, the scene's grid {scene.grid.shape}; resample "
                "hu and masks to the grid of the scene."
            )

    def colors(self, scene: Scene) -> dict[str, str]:
        """A color for every structure that is drawn or has a histogram."""
        names = [*self.masks, *(n for n in scene.structures if n not in self.masks)]
        return {name: STRUCTURES[i % len(STRUCTURES)] for i, name in enumerate(names)}


class _Picture(NamedTuple):
    """One cut: its figure and what changes in it."""

    plane: Plane
    figure: figure
    ct: ColumnDataSource
    wash: ColumnDataSource
    isodoses: ColumnDataSource
    contours: ColumnDataSource
    across: Span
    along: Span
    slider: Slider


class ShapePage:
    """One tab around the session of a desk; ``attach`` builds its document."""

    def __init__(self, desk: ShapeDesk, view: ShapedView):
        self._desk, self._view = desk, view
        self._scene = desk.session.scene
        self._grid = self._scene.grid
        view.check(self._scene)
        self._at = self._start_at()
        self._colors = view.colors(self._scene)
        self._levels_gy = np.linspace(0.0, 1.25 * view.highest_gy, N_DOSES)
        self._pan_from: dict[str, tuple[float, float]] = {}
        self._lines: dict[str, dict[float, list[np.ndarray]]] = {}
        self._drawn, self._told = -1, None
        self._document = None
        self._build_controls()
        self._pictures = {plane.name: self._picture(plane) for plane in PLANES}
        self._build_histogram()
        self._answer_controls()

    def attach(self, document) -> None:
        """Put the page into a Bokeh document; it takes its seat when the browser shows it."""
        self._document = document
        document.title = self._view.title
        document.config.notify_connection_status = False  # told below, in words of this page
        document.config.reconnect_session = False
        document.add_root(self._layout())
        self.refresh()
        document.on_event(DocumentReady, lambda event: self._desk.join(self))
        document.on_event(ConnectionLost, lambda event: self._desk.leave(self))
        document.js_on_event(ConnectionLost, self._farewell())

    def notify(self) -> None:
        """The desk has news; draw them when the document's turn comes."""
        self._document.add_next_tick_callback(self.refresh)

    def refresh(self) -> None:
        """Show what the desk has: dose, histograms, answers, and who edits."""
        self._document.hold("combine")  # one message, so that all pictures change at once
        try:
            shaped, message = self._desk.shaped, self._desk.message
            if shaped.number != self._drawn:
                self._drawn = shaped.number
                self._volume_gy = on_grid(self._grid, self._scene.voxels, shaped.dose_gy)
                self._draw_dose()
                self._curves.data = self._curve_data(shaped.dose_gy)
            if message is not self._told:
                self._told = message
                self._say(message)
            self._show_role(shaped)
        finally:
            self._document.unhold()

    # ------------------------------------------------------------------------------- building

    def _start_at(self) -> list[int]:
        """The middle of the first target, as voxel (z, y, x)."""
        target = np.argwhere(self._view.masks[next(iter(self._view.prescription_gy))])
        if not len(target):
            return [n // 2 for n in self._grid.shape]
        middle = target.mean(axis=0)
        return [int(i) for i in target[np.argmin(np.abs(target - middle).sum(axis=1))]]

    def _build_controls(self) -> None:
        high, view = self._view.highest_gy, self._view
        names = list(self._scene.structures)
        organs = [n for n in names if n not in view.prescription_gy]
        self._mode = RadioButtonGroup(name="mode", labels=list(MODES), active=1)
        self._hint = Div(name="hint", text=_hint(1), width=1240)
        self._dose = Spinner(
            name="dose", title="voxel dose in Gy", value=round(0.5 * high, 1), low=0.0,
            high=2.0 * high, step=0.5, width=120,
        )  # fmt: skip
        self._radius = Spinner(
            name="radius", title="brush radius in mm", low=1.0, high=100.0, step=1.0, width=120,
            value=float(np.ceil(max(6.0, 1.2 * max(self._grid.spacing_mm)))),
        )  # fmt: skip
        self._level = Select(
            name="level", title="isodose to move", value=NEAREST, width=170,
            options=[(NEAREST, "the nearest line"),
                     *((str(p), self._level_label(p)) for p in LEVELS)],
        )  # fmt: skip
        self._structure = Select(
            name="structure", title="curve to move", options=names, width=150,
            value=(organs or names)[0],
        )  # fmt: skip
        self._shown = CheckboxButtonGroup(
            name="shown", labels=[f"{p} %" for p in LEVELS], active=list(range(len(LEVELS)))
        )
        self._undo = Button(name="undo", label="Undo", width=80)
        self._redo = Button(name="redo", label="Redo", width=80)
        self._save = Button(name="save", label="Save record", width=110)
        self._edit = Button(
            name="edit", label="Edit here", button_type="primary", width=110, visible=False
        )
        self._role = Div(name="role", text="Connecting …", width=420)
        self._message = Div(name="message", text="", width=1240)
        self._lost = Div(name="lost", text="", visible=False, width=1240)

    def _level_label(self, percent: int) -> str:
        return f"{percent} % ({self._view.level_gy(percent):.1f} Gy)"

    def _picture(self, plane: Plane) -> _Picture:
        drawn = _figure_of(plane, self._grid)
        left, right, low, high = plane.box_mm(self._grid)
        box = dict(x=left, y=low, dw=right - left, dh=high - low)
        ct, wash = ColumnDataSource(dict(image=[])), ColumnDataSource(dict(image=[]))
        shades = LinearColorMapper(palette="Greys256", low=0, high=255)
        drawn.image("image", source=ct, color_mapper=shades, **box)
        drawn.image(
            "image", source=wash, color_mapper=self._wash_colors(), global_alpha=WASH_ALPHA, **box
        )
        contours, isodoses = _no_lines(), _no_lines()
        drawn.multi_line("xs", "ys", color="color", line_width=2, line_dash=[5, 3], source=contours)
        drawn.multi_line("xs", "ys", color="color", line_width=1.6, source=isodoses)
        across, along = (
            Span(dimension=d, line_color="#ffe066", line_width=0.7, line_alpha=0.8)
            for d in ("height", "width")
        )
        drawn.add_layout(across)
        drawn.add_layout(along)
        self._gestures(drawn, plane.name, f"mode.active == {MODES.index('isodose line')}")
        self._brush(drawn)
        drawn.on_event(Tap, lambda event: self._tapped(plane, event))
        drawn.on_event(PanEnd, lambda event: self._dragged(plane, event))
        slider = self._slider(plane)
        return _Picture(plane, drawn, ct, wash, isodoses, contours, across, along, slider)

    def _wash_colors(self) -> LinearColorMapper:
        high, clear = self._view.highest_gy, "rgba(0, 0, 0, 0)"
        return LinearColorMapper(
            palette=Turbo256, low=WASH_FROM * high, high=WASH_TO * high, low_color=clear,
            nan_color=clear,
        )  # fmt: skip

    def _slider(self, plane: Plane) -> Slider:
        axis = self._grid.axes_mm()[plane.fixed]
        step = self._grid.spacing_mm[plane.fixed]
        end = float(axis[-1]) if len(axis) > 1 else float(axis[0]) + step  # an empty one is refused
        return Slider(
            name=f"slice {plane.name}", title=f"{plane.name} at {'zyx'[plane.fixed]} in mm",
            start=float(axis[0]), end=end, step=step, value=float(axis[self._at[plane.fixed]]),
            width=SHAPES_PX[plane.name][0], format="0.0", disabled=len(axis) == 1,
        )  # fmt: skip

    def _gestures(self, drawn: figure, name: str, when: str) -> None:
        """A line from the start of a drag to the pointer, drawn by the browser alone."""
        way = ColumnDataSource(dict(x=[], y=[]), syncable=False)
        drawn.line("x", "y", source=way, color="#ffe066", line_width=2.5)
        drawn.scatter("x", "y", source=way, color="#ffe066", size=6)
        args = dict(way=way, mode=self._mode)
        codes = {PanStart: f"if ({when}) {WAY_STARTS}", Pan: WAY_GROWS, PanEnd: WAY_ENDS}
        for event, code in codes.items():
            drawn.js_on_event(event, CustomJS(args=args, code=code))
        drawn.on_event(PanStart, lambda event: self._pan_from.update({name: (event.x, event.y)}))

    def _brush(self, drawn: figure) -> None:
        """The brush around the pointer, in the modes that use it."""
        spot = ColumnDataSource(dict(x=[], y=[], r=[]), syncable=False)
        drawn.circle("x", "y", radius="r", source=spot, fill_color=None, line_color="#ffe066")
        args = dict(spot=spot, mode=self._mode, radius=self._radius)
        used = f"mode.active >= {MODES.index('isodose line')}"
        drawn.js_on_event(MouseMove, CustomJS(args=args, code=BRUSH_MOVES.format(used=used)))
        drawn.js_on_event(MouseLeave, CustomJS(args=args, code=BRUSH_LEAVES))

    def _build_histogram(self) -> None:
        start_gy = self._desk.session.scene.quantity.value(
            self._desk.session.shaper.plan(self._desk.session.start).dose
        )
        self._curves = ColumnDataSource(self._curve_data(start_gy))
        before = ColumnDataSource(self._curve_data(start_gy))
        width, height = HISTOGRAM_PX
        drawn = figure(
            name="histogram", title="Histograms (thin: at the start)", frame_width=width,
            frame_height=height, x_range=Range1d(0.0, float(self._levels_gy[-1])),
            y_range=Range1d(0.0, 104.0), tools="", toolbar_location=None,
            x_axis_label="dose in Gy (RBE)", y_axis_label="volume in %",
        )  # fmt: skip
        for name in self._scene.structures:
            color = self._colors[name]
            drawn.line("dose", name, source=before, color=color, line_width=1, line_alpha=0.55)
            drawn.line("dose", name, source=self._curves, color=color, line_width=2.4,
                       legend_label=name)  # fmt: skip
        for gy in set(self._view.prescription_gy.values()):
            drawn.add_layout(Span(location=gy, dimension="height", line_color="#888888",
                                  line_dash="dotted"))  # fmt: skip
        drawn.legend.location, drawn.legend.background_fill_alpha = "bottom_left", 0.7
        self._gestures(drawn, "histogram", "true")
        drawn.on_event(Tap, lambda event: self._curve_moved(event))
        drawn.on_event(PanEnd, lambda event: self._curve_moved(event))
        self._histogram = drawn

    def _answer_controls(self) -> None:
        args = dict(hint=self._hint, texts=[_hint(i) for i in range(len(MODES))])
        self._mode.js_on_change(
            "active", CustomJS(args=args, code="hint.text = texts[cb_obj.active]")
        )
        self._undo.on_click(lambda: self._ask(undone))
        self._redo.on_click(lambda: self._ask(redone))
        self._save.on_click(lambda: self._ask(self._save_record))
        self._edit.on_click(lambda: self._desk.take_over(self))
        self._shown.on_change("active", lambda attr, old, new: self._draw_isodoses())
        for picture in self._pictures.values():
            picture.slider.on_change("value", self._slid(picture))

    def _layout(self):
        axial, coronal, sagittal = (self._pictures[p.name] for p in PLANES)
        bar = ColorBar(color_mapper=self._wash_colors(), width=10, title="Gy", padding=4,
                       bar_line_color=None, scale_alpha=0.8)  # fmt: skip
        axial.figure.add_layout(bar, "left")
        title = Div(text=f"<b style='font-size: 130%'>{escape(self._view.title)}</b>", width=700)
        return column(
            row(title, self._role, self._edit),
            self._lost,
            row(
                self._dose, self._radius, self._level, self._structure,
                column(Div(text="a click or drag in a picture:", height=14), self._mode),
                column(Div(text="", height=14), row(self._undo, self._redo, self._save)),
            ),
            self._hint,
            self._message,
            row(
                column(axial.figure, axial.slider),
                column(coronal.figure, coronal.slider, sagittal.figure, sagittal.slider),
                column(self._histogram, Div(text=_legend(), width=390), self._shown),
            ),
        )  # fmt: skip

    def _farewell(self) -> CustomJS:
        """What the browser says when nobody answers any more."""
        kept = self._desk.record_path
        where = (
            "no record was asked for." if kept is None
            else f"your requests are saved in {escape(str(kept.resolve()))}."
        )  # fmt: skip
        text = f"{LOST}{where} Nothing on this page works until you open it from a new one."
        closed = [self._undo, self._redo, self._save, self._edit, self._dose, self._radius,
                  self._level, self._structure, self._mode, self._shown,
                  *(p.slider for p in self._pictures.values())]  # fmt: skip
        args = dict(lost=self._lost, role=self._role, closed=closed, text=_toned("failed", text))
        return CustomJS(args=args, code=FAREWELL)

    # -------------------------------------------------------------------------------- drawing

    def _draw_dose(self) -> None:
        for picture in self._pictures.values():
            self._draw_wash(picture)

    def _draw_wash(self, picture: _Picture) -> None:
        cut = picture.plane.cut(self._volume_gy, self._at)
        picture.wash.data = dict(image=[np.ascontiguousarray(cut)])
        lines = {p: picture.plane.lines(self._grid, cut, self._view.level_gy(p)) for p in LEVELS}
        self._lines[picture.plane.name] = lines
        self._draw_lines(picture)
        if not picture.ct.data["image"]:
            self._draw_patient(picture)

    def _draw_lines(self, picture: _Picture) -> None:
        lines = self._shown_lines(picture.plane)
        drawn = [(line, LEVELS[p]) for p, parts in lines.items() for line in parts]
        picture.isodoses.data = _line_data(drawn)

    def _draw_isodoses(self) -> None:
        for picture in self._pictures.values():
            self._draw_lines(picture)

    def _shown_lines(self, plane: Plane) -> dict[float, list[np.ndarray]]:
        shown = [list(LEVELS)[i] for i in self._shown.active]
        return {p: self._lines[plane.name][p] for p in shown}

    def _draw_patient(self, picture: _Picture) -> None:
        """CT, contours and crosshair; they change with the cut, not with the dose."""
        plane = picture.plane
        picture.ct.data = dict(image=[gray(plane.cut(self._view.hu, self._at))])
        drawn = []
        for name, mask in self._view.masks.items():
            inside = plane.cut(mask, self._at).astype(np.float32)
            drawn += [(line, self._colors[name]) for line in plane.lines(self._grid, inside, 0.5)]
        picture.contours.data = _line_data(drawn)
        self._draw_crosshair()

    def _draw_crosshair(self) -> None:
        axes = self._grid.axes_mm()
        for picture in self._pictures.values():
            plane = picture.plane
            picture.across.location = float(axes[plane.columns][self._at[plane.columns]])
            picture.along.location = float(axes[plane.rows][self._at[plane.rows]])

    def _curve_data(self, dose_gy: np.ndarray) -> dict[str, np.ndarray]:
        curves = histograms(self._scene.structures, dose_gy, self._levels_gy)
        return {"dose": self._levels_gy, **curves}

    def _say(self, message: Message) -> None:
        self._message.text = _toned(message.kind, escape(message.text))

    def _show_role(self, shaped) -> None:
        edits = self._desk.is_editor(self)
        other = (
            "This tab only looks: another one edits." if self._desk.has_editor
            else "This tab only looks; no tab edits now."
        )  # fmt: skip
        self._role.text = "This tab edits the plan." if edits else f"<b>{other}</b>"
        self._edit.visible = not edits
        self._undo.disabled = not (edits and shaped.can_undo)
        self._redo.disabled = not (edits and shaped.can_redo)
        self._save.disabled = not edits

    # ------------------------------------------------------------------------------- gestures

    def _ask(self, deed: Deed) -> None:
        why_not = self._desk.ask(self, deed)
        if why_not is not None:
            self._say(Message("refused", why_not))

    def _save_record(self, session: ShapingSession) -> str:
        self._desk.save()
        return f"{len(session.record)} requests are saved in {self._desk.record_path.resolve()}."

    def _slid(self, picture: _Picture):
        axis = picture.plane.fixed
        first, step = self._grid.origin_mm[axis], self._grid.spacing_mm[axis]

        def move(attr, old, new):
            index = int(np.clip(round((new - first) / step), 0, self._grid.shape[axis] - 1))
            if index == self._at[axis]:
                return
            self._at[axis] = index
            self._draw_wash(picture)
            self._draw_patient(picture)

        return move

    def _tapped(self, plane: Plane, event: PointEvent) -> None:
        position = plane.position_mm(self._grid, self._at, event.x, event.y)
        mode = MODES[self._mode.active]
        if mode == "crosshair":
            self._go_to(position)
        elif mode == "voxel":
            dose_gy = self._dose.value
            self._ask(lambda session: _give(session, position, dose_gy))
        elif mode == "isodose surface":
            level, radius_mm = self._level_at(plane, event.x, event.y), self._radius.value
            self._ask(lambda session: _push(session, level, position, radius_mm))
        else:
            self._say(Message("refused", HINTS[MODES.index("isodose line")]))

    def _go_to(self, position_mm) -> None:
        for picture in self._pictures.values():
            slider, aim = picture.slider, position_mm[2 - picture.plane.fixed]
            if not slider.disabled:
                index = round((aim - slider.start) / slider.step)
                slider.value = float(np.clip(
                    slider.start + index * slider.step, slider.start, slider.end))  # fmt: skip

    def _dragged(self, plane: Plane, event: PointEvent) -> None:
        start = self._pan_from.pop(plane.name, None)
        if start is None or MODES[self._mode.active] != "isodose line":
            return
        level = self._level_at(plane, *start)
        from_mm, to_mm = (
            plane.position_mm(self._grid, self._at, *p) for p in (start, (event.x, event.y))
        )
        radius_mm, name = self._radius.value, plane.name
        self._ask(lambda session: _drag(session, name, level, from_mm, to_mm, radius_mm))

    def _level_at(self, plane: Plane, across: float, along: float) -> float | None:
        """Gy of the chosen isodose, or of the shown line nearest to a point of a cut."""
        if self._level.value != NEAREST:
            return self._view.level_gy(int(self._level.value))
        percent = nearest_level(self._shown_lines(plane), across, along)
        return None if percent is None else self._view.level_gy(percent)

    def _curve_moved(self, event: PointEvent) -> None:
        volume = float(np.clip(event.y, 0.0, 100.0))
        self._ask(requested(DvhPoint(self._structure.value, float(event.x), volume)))


def _give(session: ShapingSession, position_mm, dose_gy: float | None) -> str:
    if dose_gy is None:
        raise RequestRefused("voxel dose is empty; give a dose in Gy.")
    return session.request(VoxelRequest(position_mm, float(dose_gy))).text


def _drag(session: ShapingSession, plane: str, level_gy, from_mm, to_mm, radius_mm) -> str:
    level, radius = _level(level_gy), _radius(radius_mm)
    return session.request(IsodoseDrag(plane, level, from_mm, to_mm, radius)).text


def _push(session: ShapingSession, level_gy, center_mm, radius_mm) -> str:
    """Away from the ball where the dose in its middle is above the level, else over it."""
    level, radius = _level(level_gy), _radius(radius_mm)
    rows = session.scene.rows_within(center_mm, radius)
    if len(rows):
        off = session.scene.points_mm[rows] - np.asarray(center_mm, np.float32)
        middle = rows[np.argmin(np.einsum("rc,rc->r", off, off))]
    else:
        middle = session.scene.nearest_row(center_mm)
    lower = bool(session.dose_gy[middle] > level)
    return session.request(IsodosePush(level, center_mm, radius, lower)).text


def _level(level_gy: float | None) -> float:
    if level_gy is None:
        raise RequestRefused(
            "no isodose line is shown in this picture; choose one in 'isodose to move'."
        )
    return level_gy


def _radius(radius_mm: float | None) -> float:
    if radius_mm is None:
        raise RequestRefused("brush radius is empty; give one in mm.")
    return possible_radius(float(radius_mm))


def _hint(mode: int) -> str:
    return f"<span style='color: #555'>{escape(HINTS[mode])} {escape(HISTOGRAM_HINT)}</span>"


def _legend() -> str:
    """Isodose lines by color; on black, as one of them is white."""
    lines = "".join(
        f"<span style='background: #333; padding: 1px 5px; color: {color}'>― {p} %</span>"
        for p, color in LEVELS.items()
    )
    return f"<span style='white-space: nowrap'>isodose lines shown: {lines}</span>"


def _toned(kind: str, text: str) -> str:
    return f"<span class='{kind}' style='color: {TONES[kind]}; font-weight: bold'>{text}</span>"


def _no_lines() -> ColumnDataSource:
    return ColumnDataSource(_line_data([]))


def _line_data(drawn: list[tuple[np.ndarray, str]]) -> dict[str, list]:
    return dict(
        xs=[line[:, 0] for line, _ in drawn], ys=[line[:, 1] for line, _ in drawn],
        color=[color for _, color in drawn],
    )  # fmt: skip


def _figure_of(plane: Plane, grid) -> figure:
    """An empty figure whose millimeters are as long across as along."""
    width, height = SHAPES_PX[plane.name]
    left, right, low, high = plane.box_mm(grid)
    scale = max((right - left) / width, (high - low) / height)  # mm of a pixel
    x, y = 0.5 * (left + right), 0.5 * (low + high)
    half_x, half_y = 0.5 * scale * width, 0.5 * scale * height
    if plane.is_downward:
        half_y = -half_y
    drawn = figure(
        name=plane.name, title=plane.name, frame_width=width, frame_height=height,
        x_range=Range1d(x - half_x, x + half_x), y_range=Range1d(y - half_y, y + half_y),
        tools="wheel_zoom,reset", active_scroll="wheel_zoom", toolbar_location="right",
        x_axis_label=_AXIS_LABELS[plane.columns], y_axis_label=_AXIS_LABELS[plane.rows],
        background_fill_color="#000000",
    )  # fmt: skip
    drawn.toolbar.logo = None
    drawn.grid.visible = False
    return drawn


_AXIS_LABELS = ("z in mm, up to the head", "y in mm, to the back", "x in mm, to the left")
