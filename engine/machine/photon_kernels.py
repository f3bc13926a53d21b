"""Photon pencil kernels from published fits, and their decomposition into three components.

Nyholm, Olofsson, Ahnesjö, Karlsson, Radiother. Oncol. 78 (2006) 347: the dose of a pencil of
megavoltage photons in water, p(r, z) = (A e^(−a r) + B e^(−b r))/r per unit primary energy
fluence, parametrized by the beam quality TPR20,10 alone. The cumulative kernel is separated by a
singular-value decomposition, p(r, z) ≈ Σ_i D_i(z) w_i(r), as in Bortfeld, Schlegel, Rhein, Med.
Phys. 20 (1993) 311. Build-up is approximate in the first 5 mm: electrons of the head are left out.
"""

from dataclasses import dataclass

import numpy as np

N_COMPONENTS = 3
DEPTH_STEP_MM = 1.0
FITTED_MM = 400.0  # depth up to which the kernels are taken from the fits
LONGEST_MM = 800.0  # depth up to which they are tabulated, falling exponentially
RADIUS_MM = 200.0  # where the kernels end
RADIUS_STEP_MM = 0.5
PIXEL_MM = 0.5
NEAR_PIXELS, SUBSAMPLES = 20, 8  # how many pixels from the axis are averaged over how many points

# coefficients k = 0 … 5 of the polynomials in TPR20,10; lengths in cm
_COEFFICIENTS = {
    "A1": (0.0128018, -0.0577391, 0.1790839, -0.2467955, 0.1328192, -0.0194684),
    "A2": (16.7815028, -279.4672663, 839.0016549, -978.4915013, 470.5317337, -69.2485573),
    "A3": (-0.0889669, -0.2587584, 0.7069203, -0.3654033, 0.0029760, -0.0003786),
    "A4": (0.0017089, -0.0169150, 0.0514650, -0.0639530, 0.0324490, -0.0049121),
    "A5": (0.1431447, -0.2134626, 0.5825546, -0.2969273, -0.0011436, 0.0002219),
    "B1": (-42.7607523, 264.3424720, -633.4540368, 731.5311577, -402.5280374, 82.4936551),
    "B2": (0.2428359, -2.5029336, 7.6128101, -9.5273454, 4.8249840, -0.7097852),
    "B3": (-0.0910420, -0.2621605, 0.7157244, -0.3664126, 0.0000930, -0.0000232),
    "B4": (0.0017284, -0.0172146, 0.0522109, -0.0643946, 0.0322177, -0.0047015),
    "B5": (-30.4609625, 354.2866078, -1073.2952368, 1315.2670101, -656.3702845, 96.5983711),
    "a1": (-0.0065985, 0.0242136, -0.0647001, 0.0265272, 0.0072169, -0.0020479),
    "a2": (-26.3337419, 435.6865552, -1359.8342546, 1724.6602381, -972.7565415, 200.3468023),
    "b1": (-80.7027159, 668.1710175, -2173.2445309, 3494.2393490, -2784.4670834, 881.2276510),
    "b2": (3.4685991, -41.2468479, 124.9729952, -153.2610078, 76.5242757, -11.2624113),
    "b3": (-39.6550497, 277.7202038, -777.0749505, 1081.5724508, -747.1056558, 204.5432666),
    "b4": (0.6514859, -4.7179961, 13.6742202, -19.7521659, 14.1873606, -4.0478845),
    "b5": (0.4695047, -3.6644336, 10.0039321, -5.1195905, -0.0007387, 0.0002360),
}


@dataclass(frozen=True, eq=False)
class PencilFit:
    """Parameters A, a, B, b (n_depths,) at depths in cm; a and b per cm."""

    amplitude: np.ndarray
    rate: np.ndarray
    scatter_amplitude: np.ndarray
    scatter_rate: np.ndarray

    def kernel(self, radius_cm: np.ndarray) -> np.ndarray:
        """p(r, z) (n_depths, n_radii) per cm², for radii above 0."""
        a, b = self.rate[:, None], self.scatter_rate[:, None]
        primary = self.amplitude[:, None] * np.exp(-a * radius_cm)
        return (primary + self.scatter_amplitude[:, None] * np.exp(-b * radius_cm)) / radius_cm

    def cumulative(self, radius_cm: np.ndarray) -> np.ndarray:
        """∫ 2πr p dr from the axis to each radius, (n_depths, n_radii)."""
        a, b = self.rate[:, None], self.scatter_rate[:, None]
        primary = (self.amplitude / self.rate)[:, None] * -np.expm1(-a * radius_cm)
        scatter = (self.scatter_amplitude / self.scatter_rate)[:, None] * -np.expm1(-b * radius_cm)
        return 2.0 * np.pi * (primary + scatter)


@dataclass(frozen=True, eq=False)
class SeparatedKernel:
    """p(r, z) ≈ Σ_i D_i(z) w_i(r).

    ``depth_component`` (n_depths, 3) at ``DEPTH_STEP_MM * arange(n_depths)``. ``pixel_kernel``
    (3, n, n) are the integrals of w_i over the ``PIXEL_MM`` squares around (x, y) = pixel · (i, j)
    of one quadrant; ``singular_value`` is of the whole decomposition, relative to the first.
    """

    depth_component: np.ndarray
    pixel_kernel: np.ndarray
    singular_value: np.ndarray


def pencil_fit(tpr_20_10: float, depth_cm: np.ndarray) -> PencilFit:
    """The published fit at one beam quality; 0.62 … 0.80 are megavoltage beams."""
    if not 0.6 <= tpr_20_10 <= 0.82:
        raise ValueError(f"tpr_20_10={tpr_20_10} must lie in 0.6 … 0.82; 6 MV has about 0.67.")
    at = {name: np.polynomial.polynomial.polyval(tpr_20_10, c) for name, c in _COEFFICIENTS.items()}
    z = np.asarray(depth_cm, np.float64)

    def along_depth(letter: str) -> np.ndarray:
        shallow = -np.expm1(at[f"{letter}2"] * np.sqrt(z * z + at[f"{letter}5"] ** 2))
        return at[f"{letter}1"] * shallow * np.exp(at[f"{letter}3"] * z + at[f"{letter}4"] * z * z)

    rate, scatter_rate = at["a1"] * z + at["a2"], along_depth("b")
    return PencilFit(along_depth("A") * rate, rate, along_depth("B") * scatter_rate, scatter_rate)


def separated_kernel(tpr_20_10: float) -> SeparatedKernel:
    """The fit of one beam quality in three components."""
    depth_cm = 0.1 * np.arange(0.0, FITTED_MM + DEPTH_STEP_MM, DEPTH_STEP_MM)
    fit = pencil_fit(tpr_20_10, depth_cm)
    radius_cm = 0.1 * np.arange(RADIUS_STEP_MM, RADIUS_MM + RADIUS_STEP_MM, RADIUS_STEP_MM)
    left, singular, _ = np.linalg.svd(fit.cumulative(radius_cm), full_matrices=False)
    sign = np.sign(left[:, :N_COMPONENTS].sum(axis=0))
    left = left[:, :N_COMPONENTS] * sign
    components = left * singular[:N_COMPONENTS]
    # w_i = U_iᵀ p / σ_i: what the projection of the cumulative kernel is for the kernel itself
    project = (left / singular[:N_COMPONENTS]).T
    return SeparatedKernel(
        _continued(components, fit).astype(np.float32),
        _pixel_kernel(fit, project).astype(np.float32), singular / singular[0],
    )  # fmt: skip


def _continued(components: np.ndarray, fit: PencilFit) -> np.ndarray:
    """Components beyond the fitted depths: they fall together, as the broad dose does there."""
    broad = fit.cumulative(np.array([0.1 * RADIUS_MM]))[-2:, 0]
    beyond = np.arange(1, round((LONGEST_MM - FITTED_MM) / DEPTH_STEP_MM) + 1)
    falling = (broad[1] / broad[0]) ** beyond
    return np.concatenate([components, falling[:, None] * components[-1]])


def _pixel_kernel(fit: PencilFit, project: np.ndarray) -> np.ndarray:
    """Integrals of w_i over the pixels of a quadrant, (3, n, n)."""
    radius_mm = np.concatenate([np.geomspace(0.02, 2.0, 200), np.arange(2.05, RADIUS_MM, 0.05)])
    lateral = project @ fit.kernel(0.1 * radius_mm) * (0.01 * radius_mm)  # mm² · r per mm

    def averaged(n: int, samples: int) -> np.ndarray:
        at, part = PIXEL_MM * np.arange(n), PIXEL_MM / samples
        offsets = part * (np.arange(samples) - 0.5 * (samples - 1))
        fine = (at[:, None] + offsets).ravel()
        r = np.maximum(np.hypot(fine[:, None], fine[None, :]), radius_mm[0])
        values = np.stack([np.interp(r, radius_mm, w) / r for w in lateral]) * part**2
        return values.reshape(N_COMPONENTS, n, samples, n, samples).sum(axis=(2, 4))

    n = round(RADIUS_MM / PIXEL_MM) + 1
    kernel = averaged(n, 1)
    kernel[:, :NEAR_PIXELS, :NEAR_PIXELS] = averaged(NEAR_PIXELS, SUBSAMPLES)
    disk_cm = np.array([0.1 * PIXEL_MM / np.sqrt(np.pi)])  # of the central pixel's area
    kernel[:, 0, 0] = (project @ fit.cumulative(disk_cm))[:, 0]
    at = PIXEL_MM * np.arange(n)
    kernel[:, np.hypot(at[:, None], at[None, :]) > RADIUS_MM] = 0.0
    return kernel
