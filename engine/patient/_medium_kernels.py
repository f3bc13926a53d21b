"""Loops that carry density and composition from one grid to another; see ``medium``."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def overlap_mean(density, material, n_materials, first, shares_z, shares_y, shares_x):
    """Mean density and heaviest material of every target voxel, float32 and uint8.

    ``first[axis]`` (n_to,) uint32 is the first source voxel that a target voxel meets, ``shares``
    (n_to, n_met) float64 what share of the target voxel this one and those behind it cover. Of
    equally heavy materials the one of lower index is taken, the first of all where all is vacuum.
    """
    first_z, first_y, first_x = first
    nz, ny, nx = shares_z.shape[0], shares_y.shape[0], shares_x.shape[0]
    mean = np.zeros((nz, ny, nx), np.float32)
    heaviest = np.zeros((nz, ny, nx), np.uint8)
    mass = np.zeros(n_materials)
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                mass[:] = 0.0
                for c in range(shares_z.shape[1]):
                    for b in range(shares_y.shape[1]):
                        of_row = shares_z[k, c] * shares_y[j, b]
                        if of_row == 0.0:
                            continue
                        z, y = first_z[k] + np.uint32(c), first_y[j] + np.uint32(b)
                        for a in range(shares_x.shape[1]):
                            share = of_row * shares_x[i, a]
                            if share == 0.0:
                                continue
                            x = first_x[i] + np.uint32(a)
                            mass[material[z, y, x]] += share * density[z, y, x]
                total, most = 0.0, 0
                for m in range(n_materials):
                    total += mass[m]
                    if mass[m] > mass[most]:
                        most = m
                mean[k, j, i] = total
                heaviest[k, j, i] = most
    return mean, heaviest
