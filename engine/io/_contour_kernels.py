"""Loops between contours and pixels; see ``engine.io.dicom_contours``."""

import numpy as np
from numba import njit

SUB_LINES = 8  # per pixel row, besides those at every vertex


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
def coverage(low_y, low_x, high_y, high_x, ny, nx):
    """Share of every pixel inside the even-odd region that edges bound, (ny, nx) float64.

    Edges (n,) run from low to high y, in pixels from the corner of pixel (0, 0), none of them
    horizontal. Between two vertices the region is made of trapezoids, whose area the middle line
    gives exactly; so a row's area is exact as long as edges do not cross each other inside it.
    """
    result = np.zeros((ny, nx))
    order = np.argsort(low_y)
    n_edges = len(order)
    active = np.empty(n_edges, np.int64)
    crossing = np.empty(n_edges)
    lines = np.empty(SUB_LINES + 1 + 2 * n_edges)
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

        n_lines = SUB_LINES + 1
        for i in range(n_lines):
            lines[i] = row + i / SUB_LINES
        for e in active[:n_active]:
            if low_y[e] > row:
                lines[n_lines] = low_y[e]
                n_lines += 1
            if high_y[e] < row + 1:
                lines[n_lines] = high_y[e]
                n_lines += 1
        lines[:n_lines].sort()

        covered[:] = 0.0
        full[:] = 0.0
        for i in range(n_lines - 1):
            height = lines[i + 1] - lines[i]
            if height <= 0.0:
                continue
            y = 0.5 * (lines[i] + lines[i + 1])
            n_crossing = 0
            for e in active[:n_active]:
                if low_y[e] <= y < high_y[e]:
                    t = (y - low_y[e]) / (high_y[e] - low_y[e])
                    crossing[n_crossing] = low_x[e] + t * (high_x[e] - low_x[e])
                    n_crossing += 1
            crossing[:n_crossing].sort()
            for c in range(0, n_crossing - 1, 2):
                _add_span(covered, full, crossing[c], crossing[c + 1], height)
        whole = 0.0
        for i in range(nx):
            whole += full[i]
            result[row, i] = whole + covered[i]
    return result


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
