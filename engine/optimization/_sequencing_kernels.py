"""Dynamic programming over angle × layer × time used."""

import numpy as np
from numba import njit

OPTIONS = dict(cache=True, nogil=True, error_model="numpy")
NOTHING = -np.inf


@njit(**OPTIONS)
def best_within_limit(
    angles, valid, value, switch, beam_on, gantry, passed, rest, limit, back, bins
):
    """Fill the labels of every served angle; returns the best last layer and time bin.

    ``angles`` (n,) are those that a layer serves, ``passed`` (n,) the seconds of passing the
    angles before each, ``rest`` (n, E) the seconds that must be left after each. A label keeps the
    best value of a layer and time bin together with its own exact time, so that bins cost no time.
    ``back`` and ``bins`` (n, E, n_bins) int16 are the layer and the bin that a label came from.
    """
    n_layers, n_bins = back.shape[1], back.shape[2]
    per_second = (n_bins - 1) / limit
    best = np.full((n_layers, n_bins), NOTHING)
    time = np.zeros((n_layers, n_bins))
    new_best, new_time = best.copy(), time.copy()
    for i in range(len(angles)):
        g = angles[i]
        new_best[:] = NOTHING
        for e in range(n_layers):
            if not valid[g, e]:
                continue
            if i == 0:
                t = passed[i] + max(gantry[g], beam_on[g, e])
                if t + rest[i, e] <= limit:
                    new_best[e, int(t * per_second)] = value[g, e]
                    new_time[e, int(t * per_second)] = t
                continue
            for p in range(n_layers):
                if not valid[angles[i - 1], p]:
                    continue
                step = passed[i] + max(gantry[g], switch[p, e] + beam_on[g, e])
                for b in range(n_bins):
                    if best[p, b] == NOTHING:
                        continue
                    t = time[p, b] + step
                    if t + rest[i, e] > limit:
                        break
                    k = int(t * per_second)
                    v = best[p, b] + value[g, e]
                    if v > new_best[e, k] or (v == new_best[e, k] and t < new_time[e, k]):
                        new_best[e, k], new_time[e, k] = v, t
                        back[i, e, k], bins[i, e, k] = p, b
        best, new_best = new_best, best
        time, new_time = new_time, time
    top, last_layer, last_bin = NOTHING, -1, -1
    for e in range(n_layers):
        for b in range(n_bins):
            if best[e, b] > top:
                top, last_layer, last_bin = best[e, b], e, b
    return last_layer, last_bin
