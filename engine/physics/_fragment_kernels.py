"""Compiled loop of the fragments: what ions leave along depth, and at which energies."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def at(table, longest, r):
    """Look-up in a table over residual range whose entries stand at squares, linear in the root;
    its last entry above ``longest``."""
    u = math.sqrt(r / longest) * (table.size - 1)
    i = int(u)
    if i >= table.size - 1:
        return table[table.size - 1]
    return table[i] + (u - i) * (table[i + 1] - table[i])


@njit(cache=True, nogil=True)
def deposit_rays(
    number, start, ranges, edges, longest, tables, node_range, log_nodes, nucleons, out, moments
):
    """Add the energy that ions of one kind lose to cells of depth and to bins of energy.

    number, start, ranges (n_rays,): ions, where they set out and how far they reach; edges
    (n_cells + 1,). tables (3, n) over residual range, longest · (i / (n − 1))²: energy per nucleon,
    the integral of what absorbs the ions, stopping power. node_range, log_nodes (n_bins,): residual
    range and logarithm of the bins' energies, evenly spaced. Adds MeV to out (n_cells, n_bins),
    and to moments (2, n_cells) the same times stopping power and times squared distance from the
    start.
    """
    energy, absorbed, stopping = tables[0], tables[1], tables[2]
    n_cells, n_bins = out.shape
    spacing = (log_nodes[n_bins - 1] - log_nodes[0]) / (n_bins - 1)
    for i in range(number.size):
        r, z = ranges[i], start[i]
        cell = np.searchsorted(edges, z, side="right") - 1
        node = np.searchsorted(node_range, r) - 1
        before = at(energy, longest, r)
        entry = at(absorbed, longest, r)
        while r > 0.0 and 0 <= cell < n_cells:
            to_edge = edges[cell + 1] - z
            to_node = r - node_range[node] if node >= 0 else r
            length = min(to_edge, to_node)
            left = max(r - length, 0.0)
            middle = 0.5 * (r + left)
            after = at(energy, longest, left)
            gain = number[i] * nucleons * (before - after)
            gain *= math.exp(at(absorbed, longest, middle) - entry)
            place = (math.log(max(0.5 * (before + after), 1e-9)) - log_nodes[0]) / spacing
            place = min(max(place, 0.0), n_bins - 1.000001)
            low = int(place)
            out[cell, low] += gain * (1.0 - (place - low))
            out[cell, low + 1] += gain * (place - low)
            moments[0, cell] += gain * at(stopping, longest, middle)
            moments[1, cell] += gain * (z + 0.5 * length - start[i]) ** 2
            if to_edge <= to_node:
                cell += 1
            if to_node <= to_edge:
                node -= 1
                if node < -1:
                    break
            z += length
            r, before = left, after
