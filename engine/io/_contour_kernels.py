"""Loops between contours and pixels; see ``engine.io.dicom_contours``."""

import numpy as np
from numba import njit

SUB_LINES = 8  # per pixel row, besides those at every vertex
MOST_EXACT = 1000  # edges in a row of pixels beyond which sub-lines alone have to do
MOST_MEETING = 256  # edges in a row among which crossings are looked for
OVERLAP_LINES = 64


@njit(cache=True, nogil=True)
def _add_span(covered, full, left, right, height):
    """Add height × overlap with [left, right] to every pixel of a row; pixel i is [i, i + 1].

    Pixels that the span ends in go to ``covered``, the whole ones between to ``full`` as a
    difference.
    """
    n = len(covered)
    left, right = min(max(left, 0.0), float(n)), min(max(right, 0.0), float(n))
    if right <= left:
        return
    first, last = min(int(left), n - 1), min(int(right), n - 1)
    if first == last:
        covered[first] += height * (right - left)
        return
    covered[first] += height * (first + 1 - left)
    covered[last] += height * (right - last)
    full[first + 1] += height
    full[last] -= height


@njit(cache=True, nogil=True)
def _lines_across(row, active, edges, polygon, are_crossing, lines):
    """Heights in a row of pixels between which the region is made of trapezoids, sorted; how many.

    Sub-lines, vertices, and where edges of two polygons cross if they may, unless too many meet in
    the row: time goes with lines times edges, and so with the square of a scribble's points.
    """
    low_y, low_x, high_y, high_x = edges
    n_lines = SUB_LINES + 1
    for i in range(n_lines):
        lines[i] = row + i / SUB_LINES
    if len(active) > MOST_EXACT:
        return n_lines
    for e in active:
        if low_y[e] > row:
            lines[n_lines] = low_y[e]
            n_lines += 1
        if high_y[e] < row + 1:
            lines[n_lines] = high_y[e]
            n_lines += 1
    if are_crossing and len(active) <= MOST_MEETING:
        for i in range(len(active)):
            e = active[i]
            for f in active[:i]:
                if polygon[e] == polygon[f]:
                    continue
                low = max(low_y[e], low_y[f], row)
                high = min(high_y[e], high_y[f], row + 1.0)
                below = _x_at(edges, e, low) - _x_at(edges, f, low)
                above = _x_at(edges, e, high) - _x_at(edges, f, high)
                if low < high and below * above < 0.0:
                    lines[n_lines] = low + (high - low) * below / (below - above)
                    n_lines += 1
    lines[:n_lines].sort()
    return n_lines


@njit(cache=True, nogil=True)
def _x_at(edges, e, y):
    """Where an edge is at a height; beyond its ends, the end's."""
    low_y, low_x, high_y, high_x = edges
    t = (y - low_y[e]) / (high_y[e] - low_y[e])
    return low_x[e] + min(max(t, 0.0), 1.0) * (high_x[e] - low_x[e])


@njit(cache=True, nogil=True)
def _sort_at(y, active, edges, x):
    """Bring edges in the order in which a line meets them, and give ``x`` (n,) where.

    From one line to the next few change places, and every two edges once at most: insertion takes
    far less time than to sort them anew.
    """
    for i in range(len(active)):
        e = active[i]
        x_e = _x_at(edges, e, y)
        j = i - 1
        while j >= 0 and x[j] > x_e:
            x[j + 1], active[j + 1] = x[j], active[j]
            j -= 1
        x[j + 1], active[j + 1] = x_e, e


@njit(cache=True, nogil=True)
def _cross(p, inside, n_holes, n_filled, is_hole, outers, ends):
    """Note that a line enters or leaves polygon p; the number of outer polygons that fill it then.

    A polygon that is no hole fills the line where the line is in none of its holes.
    """
    inside[p] = not inside[p]
    if not is_hole[p]:
        if n_holes[p] == 0:
            n_filled += 1 if inside[p] else -1
        return n_filled
    for outer in outers[ends[p] : ends[p + 1]]:
        before = n_holes[outer] == 0
        n_holes[outer] += 1 if inside[p] else -1
        if inside[outer]:
            n_filled += int(n_holes[outer] == 0) - int(before)
    return n_filled


@njit(cache=True, nogil=True)
def _add_line(y, height, active, edges, polygon, nesting, x, covered, full):
    """Add height × what a line across a row of pixels has inside; ``x`` (n,) is where it meets the
    active edges, which are in this order."""
    low_y, _, high_y, _ = edges
    is_hole, outers, ends, _ = nesting
    is_united = len(is_hole) > 0
    inside, n_holes = np.zeros(len(is_hole), np.bool_), np.zeros(len(is_hole), np.int64)
    n_filled, left = 0, 0.0
    for a in range(len(active)):
        e = active[a]
        if not low_y[e] <= y < high_y[e]:
            continue
        was_filled = n_filled > 0
        if is_united:
            n_filled = _cross(polygon[e], inside, n_holes, n_filled, is_hole, outers, ends)
        else:
            n_filled = 1 - n_filled
        if n_filled > 0 and not was_filled:
            left = x[a]
        elif was_filled and n_filled == 0:
            _add_span(covered, full, left, x[a], height)


@njit(cache=True, nogil=True)
def coverage(edges, polygon, nesting, ny, nx):
    """Share of every pixel inside the region that edges bound, (ny, nx) float64.

    Edges are four lists (n,), low y, its x, high y and its x, in pixels from the corner of pixel
    (0, 0), none of them horizontal; ``polygon`` (n,) says of which they are. ``nesting`` is
    (is_hole, outers, ends, are_crossing). Where ``is_hole`` (n_polygons,) is empty the region is
    the even-odd one. Otherwise it is what lies in a polygon that is no hole, and in no hole of this
    one: those around hole p are ``outers[ends[p]:ends[p + 1]]``. Between two lines the region is
    made of trapezoids, whose area the middle line gives exactly.
    """
    low_y, _, high_y, _ = edges
    result = np.zeros((ny, nx))
    order = np.argsort(low_y)
    n_edges = len(order)
    active, x = np.empty(n_edges, np.int64), np.empty(n_edges)
    lines = np.empty(SUB_LINES + 1 + 2 * n_edges + MOST_MEETING**2)
    covered, full = np.empty(nx), np.empty(nx + 1)
    n_active, following = 0, 0
    for row in range(ny):
        while following < n_edges and low_y[order[following]] < row + 1:
            active[n_active] = order[following]
            n_active += 1
            following += 1
        kept = 0
        for e in active[:n_active]:
            if high_y[e] > row:
                active[kept] = e
                kept += 1
        n_active = kept
        if n_active == 0:
            continue
        met = active[:n_active]
        n_lines = _lines_across(row, met, edges, polygon, nesting[3], lines)
        covered[:] = 0.0
        full[:] = 0.0
        for i in range(n_lines - 1):
            height = lines[i + 1] - lines[i]
            if height > 0.0:
                y = 0.5 * (lines[i] + lines[i + 1])
                _sort_at(y, met, edges, x)
                _add_line(y, height, met, edges, polygon, nesting, x, covered, full)
        whole = 0.0
        for i in range(nx):
            whole += full[i]
            result[row, i] = whole + covered[i]
    return result


@njit(cache=True, nogil=True)
def _crossings(points, y, found):
    """x where the line at y meets a polygon's edges, sorted, into ``found``; how many."""
    n = 0
    before_x, before_y = points[-1, 0], points[-1, 1]
    for i in range(len(points)):
        x_i, y_i = points[i, 0], points[i, 1]
        if (before_y <= y) != (y_i <= y):
            found[n] = before_x + (y - before_y) / (y_i - before_y) * (x_i - before_x)
            n += 1
        before_x, before_y = x_i, y_i
    found[:n].sort()
    return n


@njit(cache=True, nogil=True)
def _length(polygon, low_y, high_y, on_it):
    """Mean length in a polygon of lines from low to high y."""
    own = 0.0
    for line in range(OVERLAP_LINES):
        n = _crossings(polygon, low_y + (line + 0.5) / OVERLAP_LINES * (high_y - low_y), on_it)
        for i in range(0, n - 1, 2):
            own += on_it[i + 1] - on_it[i]
    return own / OVERLAP_LINES


@njit(cache=True, nogil=True)
def _common_length(one, other, low_y, high_y, on_one, on_other):
    """Mean length in both of two polygons of lines from low to high y."""
    common = 0.0
    for line in range(OVERLAP_LINES):
        y = low_y + (line + 0.5) / OVERLAP_LINES * (high_y - low_y)
        n, m = _crossings(one, y, on_one), _crossings(other, y, on_other)
        j = 0
        for i in range(0, n - 1, 2):
            while j < m - 1 and on_other[j + 1] <= on_one[i]:
                j += 2
            k = j
            while k < m - 1 and on_other[k] < on_one[i + 1]:
                common += min(on_one[i + 1], on_other[k + 1]) - max(on_one[i], on_other[k])
                k += 2
    return common / OVERLAP_LINES


@njit(cache=True, nogil=True)
def touching_boxes(low, high):
    """Pairs (m, 2) of boxes that overlap, from their corners (n, 2)."""
    order = np.argsort(low[:, 1])
    n_pairs = 0
    for is_counted in (False, True):
        pairs = np.empty((n_pairs, 2), np.int64)
        n_pairs = 0
        for i in range(len(order)):
            p = order[i]
            for q in order[i + 1 :]:
                if low[q, 1] >= high[p, 1]:
                    break
                if low[q, 0] < high[p, 0] and low[p, 0] < high[q, 0]:
                    if is_counted:
                        pairs[n_pairs] = p, q
                    n_pairs += 1
    return pairs


@njit(cache=True, nogil=True)
def overlaps(points, ends, low, high, pairs):
    """The smaller polygon of each pair and its share that lies in the other, and areas.

    ``points`` (n, 2) as (x, y) are of all polygons in turn, ``ends`` where each begins and the last
    ends, ``low`` and ``high`` (n_polygons, 2) the corners of their boxes; ``pairs`` (m, 2) are
    turned so that the smaller comes first. Gives shares (m,) and areas (n_polygons,), 0 of what is
    in no pair, by ``OVERLAP_LINES`` lines along x. A share is by lines of the smaller alone: of one
    wholly within another it is 1.
    """
    on_one, on_other = np.empty(len(points)), np.empty(len(points))
    length, share = np.zeros(len(low)), np.zeros(len(pairs))
    for p in np.unique(pairs):
        length[p] = _length(points[ends[p] : ends[p + 1]], low[p, 1], high[p, 1], on_one)
    area = length * (high[:, 1] - low[:, 1])
    for pair in range(len(pairs)):
        if area[pairs[pair, 1]] < area[pairs[pair, 0]]:
            pairs[pair] = pairs[pair, ::-1].copy()
        p, q = pairs[pair]
        one, other = points[ends[p] : ends[p + 1]], points[ends[q] : ends[q + 1]]
        common = _common_length(one, other, low[p, 1], high[p, 1], on_one, on_other)
        share[pair] = common / length[p] if length[p] > 0.0 else 0.0
    return share, area


_STEP = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # right, down, left, up as (row, column)


@njit(cache=True, nogil=True)
def _is_edge(mask, row, column, direction):
    """Whether the step from a corner has the mask on its right hand and nothing on its left.

    Corner (r, c) is the upper left one of pixel (r, c); none lies at the rim of the mask.
    """
    if direction == 0:
        return mask[row, column] and not mask[row - 1, column]
    if direction == 1:
        return mask[row, column - 1] and not mask[row, column]
    if direction == 2:
        return mask[row - 1, column - 1] and not mask[row, column - 1]
    return mask[row - 1, column] and not mask[row - 1, column - 1]


@njit(cache=True, nogil=True)
def _traced(mask):
    """The closed paths between a mask with an empty rim and the rest, as nodes at pixel corners.

    Gives corners (n, 2) as (row, column), the node after each (n,), the first node of every path,
    whether it bounds a hole, and the node that starts a step from a corner, by direction. Of two
    ways on at a corner the one around the same pixel is taken: pixels that touch at a corner alone
    are apart. A path is met at its uppermost row, where only a hole's runs to the left.
    """
    ny, nx = mask.shape
    n_steps = 0
    for row in range(1, ny):
        for column in range(1, nx):
            n_steps += mask[row, column] != mask[row - 1, column]
            n_steps += mask[row, column] != mask[row, column - 1]
    corners = np.empty((n_steps, 2), np.int64)
    after = np.empty(n_steps, np.int64)
    starts = np.empty(n_steps, np.int64)
    is_hole = np.zeros(n_steps, np.bool_)
    node_of = np.full((4, ny, nx), -1, np.int32)
    n_nodes, n_paths = 0, 0
    for row0 in range(1, ny):
        for column0 in range(1, nx):
            for direction0 in (0, 2):
                is_edge = _is_edge(mask, row0, column0, direction0)
                if not is_edge or node_of[direction0, row0, column0] >= 0:
                    continue
                starts[n_paths], is_hole[n_paths] = n_nodes, direction0 == 2
                row, column, direction = row0, column0, direction0
                while node_of[direction, row, column] < 0:
                    node_of[direction, row, column] = n_nodes
                    corners[n_nodes, 0], corners[n_nodes, 1] = row, column
                    after[n_nodes] = n_nodes + 1
                    n_nodes += 1
                    row += _STEP[direction, 0]
                    column += _STEP[direction, 1]
                    for turn in (1, 0, 3):
                        if _is_edge(mask, row, column, (direction + turn) % 4):
                            direction = (direction + turn) % 4
                            break
                after[n_nodes - 1] = starts[n_paths]
                n_paths += 1
    return corners, after, starts[:n_paths], is_hole[:n_paths], node_of


@njit(cache=True, nogil=True)
def _doors(corners, after, starts, is_hole):
    """Of every hole the uppermost node at its leftmost wall, and the node before; by column."""
    n_holes = 0
    doors = np.empty((len(starts), 2), np.int64)
    for path in range(len(starts)):
        if not is_hole[path]:
            continue
        before = starts[path]
        best, best_before = -1, -1
        while True:
            node = after[before]
            row, column = corners[node]
            goes_down = corners[after[node], 0] > row
            if goes_down and (
                best < 0
                or column < corners[best, 1]
                or (column == corners[best, 1] and row < corners[best, 0])
            ):
                best, best_before = node, before
            before = node
            if before == starts[path]:
                break
        doors[n_holes] = best, best_before
        n_holes += 1
    doors = doors[:n_holes]
    return doors[np.argsort(corners[doors[:, 0], 1])]


@njit(cache=True, nogil=True)
def outlines(mask):
    """Outlines of a mask (ny, nx) along pixel edges, each hole joined to what surrounds it.

    The first and the last rows and columns of the mask are empty. Gives corners (n, 2) as (row,
    column) of all outlines in turn, only those where the direction changes, and where each outline
    starts and the last ends. From the uppermost node of its leftmost wall a hole's channel of no
    width runs left to the nearest wall; holes further left are joined before, so that this wall
    belongs to an outline already.
    """
    corners, after, starts, is_hole, node_of = _traced(mask)
    doors = _doors(corners, after, starts, is_hole)
    n, n_holes = len(corners), len(doors)
    corners = np.concatenate((corners, np.empty((2 * n_holes, 2), np.int64)))
    after = np.concatenate((after, np.empty(2 * n_holes, np.int64)))
    for hole in range(n_holes):
        door, before_door = doors[hole]
        row, wall = corners[door]
        while node_of[3, row + 1, wall] < 0:
            wall -= 1
        outer = after[node_of[3, row + 1, wall]]
        back_at_door, back_outside = n + 2 * hole, n + 2 * hole + 1
        corners[back_at_door], corners[back_outside] = corners[door], corners[outer]
        after[back_outside] = after[outer]
        after[back_at_door] = back_outside
        after[before_door] = back_at_door
        after[outer] = door

    points = np.empty((len(corners), 2), np.int64)
    ends = np.zeros(len(starts) + 1, np.int64)
    n_points, n_outlines = 0, 0
    for path in range(len(starts)):
        if is_hole[path]:
            continue
        before, node = starts[path], after[starts[path]]
        while True:
            following = after[node]
            turns = False
            for axis in range(2):
                came = np.sign(corners[node, axis] - corners[before, axis])
                goes = np.sign(corners[following, axis] - corners[node, axis])
                turns = turns or came != goes
            if turns:
                points[n_points] = corners[node]
                n_points += 1
            if node == starts[path]:
                break
            before, node = node, following
        n_outlines += 1
        ends[n_outlines] = n_points
    return points[:n_points], ends[: n_outlines + 1]
