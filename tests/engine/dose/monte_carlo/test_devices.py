"""Range shifters and block apertures, transported as they stand in the beam."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from engine.errors import PhysicsWarning
from engine.geometry.plan import Aperture
from engine.machine.ion import RangeShifter
from engine.patient.tissues import MATERIALS
from engine.physics.constants import pv_mev
from engine.physics.materials import relative_stopping_power
from engine.physics.scattering import highland_angle_rad
from engine.physics.stopping_power import csda_range_mm, energy_at_range

SHIFTERS = (
    RangeShifter("thin", 0.0, 35.0, "lexan"), RangeShifter("pmma", 0.0, 40.0, "pmma"),
    RangeShifter("metal", 0.0, 15.0, "aluminum"), RangeShifter("wall", 0.0, 200.0, "lexan"),
)  # fmt: skip
N = 12_000


def square(half_mm, exit_mm, **more):
    corners = ((-half_mm, -half_mm), (half_mm, -half_mm), (half_mm, half_mm), (-half_mm, half_mm))
    return Aperture(corners, exit_mm, **more)


@pytest.fixture(scope="module")
def machine(proton_machine):
    return proton_machine(150.0, 0.5, 3.0, 0.003, range_shifters=SHIFTERS)


@pytest.fixture(scope="module")
def tank(box):
    return box((120.0, 180.0, 120.0), (4.0, 1.0, 4.0))


@pytest.mark.parametrize("name", ["thin", "pmma", "metal"])
def test_a_range_shifter_takes_its_water_equivalent_thickness_off_the_range(
    tank, machine, spots, distal, name
):
    shifter = machine.range_shifter(name)
    behind = spots(machine, range_shifter=name, shifter_exit_mm=-50.0)
    bare, shifted = (
        distal(tank.depth_mm, tank.dose(plan, N).sum(axis=(0, 2)))
        for plan in (spots(machine), behind)
    )
    rsp = relative_stopping_power(MATERIALS[shifter.material], 140.0)
    assert bare - shifted == pytest.approx(rsp * shifter.thickness_mm, abs=0.3)


def test_a_range_shifter_widens_the_spot_and_the_gap_widens_it_more(tank, machine, spots, moments):
    x = tank.grid.axes_mm()[2]
    core = np.abs(x) < 30.0
    widths = []
    for shifter in (
        {}, dict(range_shifter="pmma", shifter_exit_mm=-20.0),
        dict(range_shifter="pmma", shifter_exit_mm=-200.0),
    ):  # fmt: skip
        dose = tank.dose(spots(machine, **shifter), N, "electromagnetic")
        widths.append(moments(x[core], dose[:, 5].sum(axis=0)[core])[1])
    assert widths[0] < widths[1] < widths[2]
    # Highland's angle at the energy in the middle, from there over the gap into the water
    pmma = MATERIALS["pmma"]
    middle_mev = float(energy_at_range(csda_range_mm(150.0) - 1.165 * 20.0))
    angle = float(highland_angle_rad(pv_mev(middle_mev), 40.0, pmma))
    assert np.sqrt(widths[2] ** 2 - widths[0] ** 2) == pytest.approx(angle * 225.5, rel=0.12)


def test_where_the_shifter_stands_does_not_change_the_range(tank, machine, spots, distal):
    found = [
        distal(tank.depth_mm, tank.dose(
            spots(machine, range_shifter="thin", shifter_exit_mm=exit_mm), N, "electromagnetic",
        ).sum(axis=(0, 2)))
        for exit_mm in (-10.0, -360.0)
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], abs=0.1)


def test_a_shifter_thicker_than_the_range_lets_nothing_through_and_says_so(tank, machine, spots):
    plan = spots(machine, range_shifter="wall", shifter_exit_mm=-50.0)
    settings = dict(non_elastic=False, nuclear_elastic=False, proton_proton=False)
    with pytest.warns(PhysicsWarning, match="stop in the range shifter or aperture"):
        found = tank.simulate(plan, 500, **settings)
    assert np.all(found.quantities["dose"] == 0.0)
    assert found.balance.devices_mev == pytest.approx(150.0, rel=0.01)
    engine = tank.engine(histories_per_spot=100, **settings)
    with pytest.warns(PhysicsWarning, match="stop in the range shifter or aperture"):
        influence = engine.influence(tank.patient, plan, tank.grid)
    assert influence.n_nonzeros == 0


@pytest.fixture(scope="module")
def wide_field(spots, proton_machine):
    machine = proton_machine(
        120.0, 0.5, 5.0, 0.002, range_shifters=SHIFTERS, virtual_source_mm=2000.0
    )
    places = np.arange(-36.0, 37.0, 6.0)
    u, v = (a.ravel() for a in np.meshgrid(places, places))
    return lambda **beam: spots(machine, u, v, **beam)


@pytest.fixture(scope="module")
def shallow(box):
    return box((96.0, 20.0, 96.0), (2.0, 4.0, 2.0))


def test_an_aperture_lets_through_its_opening_and_little_else(shallow, wide_field):
    exit_mm, half = -60.0, 15.0
    dose = shallow.dose(wide_field(aperture=square(half, exit_mm)), 60_000)
    z, _, x = shallow.grid.axes_mm()
    across = dose[:, 1].sum(axis=0)
    middle = across[np.abs(x) < 6.0].mean()
    assert across[np.abs(x) > 30.0].max() < 0.03 * middle
    # Its downstream edge, projected from the source to the depth of 6 mm.
    edge = half * (2000.0 + 6.0) / (2000.0 + exit_mm)
    for side in (-1.0, 1.0):
        half_at, penumbra = edge_of(side * x, across / middle)
        assert half_at == pytest.approx(edge, abs=0.5)
        assert 0.5 < penumbra < 3.0
    open_dose = shallow.dose(wide_field(), 60_000)
    _, open_penumbra = edge_of(x, open_dose[:, 1].sum(axis=0) / open_dose[:, 1].sum(axis=0)[24])
    assert open_penumbra > 3.0


def edge_of(x, profile):
    """Where a profile has fallen to a half, and the distance from 80 to 20 %, mm."""
    order = np.argsort(x)
    x, profile = x[order], profile[order]
    outer = x > 0.0
    at = [float(np.interp(-level, -profile[outer], x[outer])) for level in (0.8, 0.5, 0.2)]
    return at[1], at[2] - at[0]


def test_a_larger_gap_behind_the_aperture_softens_its_edge(box, spots, proton_machine):
    film = box((40.0, 4.0, 40.0), (40.0, 4.0, 0.5))
    x, angle = film.grid.axes_mm()[2], 0.012
    u = np.arange(-24.0, 25.0, 4.0)
    plan = spots(proton_machine(120.0, 0.0, 4.0, angle), u)
    found = []
    for exit_mm in (-10.0, -150.0):
        beam = replace(plan.beams[0], aperture=square(10.0, exit_mm))
        dose = film.dose(replace(plan, beams=(beam,)), 40_000, "electromagnetic")
        across = dose[0, 0]
        found.append(edge_of(x, across / across[np.abs(x) < 4.0].mean())[1])
    # 80 to 20 % of an edge are 1.68 σ; protons spread from the edge on, and in the hole
    assert found[1] > 1.68 * angle * 150.0
    assert found[1] > 1.5 * found[0]


def test_a_polygon_shapes_the_field(shallow, wide_field):
    triangle = Aperture(((-20.0, -20.0), (20.0, -20.0), (-20.0, 20.0)), -20.0)
    layer = shallow.dose(wide_field(aperture=triangle), 40_000)[:, 1]
    z, _, x = shallow.grid.axes_mm()
    u, v = np.meshgrid(x, z)
    inside = (u > -15.0) & (v > -15.0) & (u + v < -8.0)
    outside = (u + v > 10.0) & (np.abs(u) < 30.0) & (np.abs(v) < 30.0)
    assert layer[inside].mean() > 20.0 * layer[outside].mean()


def test_protons_pass_beside_the_rim(shallow, spots, proton_machine):
    narrow = square(5.0, -20.0, rim_mm=10.0)

    def balance(u):
        plan = spots(proton_machine(120.0), u, aperture=narrow)
        return shallow.simulate(plan, 50, "slowing down").balance

    assert balance(0.0).devices_mev == balance(20.0).devices_mev == 0.0
    with pytest.warns(PhysicsWarning, match="stop in the range shifter or aperture"):
        assert balance(10.0).devices_mev == pytest.approx(120.0, rel=1e-4)


def test_small_openings_have_finer_cells(shallow, spots, proton_machine):
    # A hole of 2.2 mm: cells of 0.2 mm resolve it, cells of 0.5 mm would make it 2.0 or 2.5.
    plan = spots(proton_machine(120.0, sigma_mm=4.0), aperture=square(1.1, -20.0))
    b = shallow.simulate(plan, 40_000, "slowing down").balance
    expected = (2.0 * norm.cdf(1.1 / 4.0) - 1.0) ** 2
    passed = (b.patient_mev + b.left_mev) / 120.0
    assert passed == pytest.approx(expected, abs=4.0 * np.sqrt(expected / 40_000))


@pytest.mark.parametrize(
    "beam, message",
    [
        (dict(range_shifter="pmma", shifter_exit_mm=-50.0, aperture=square(10.0, -60.0)),
         r"begins -90.0 mm from the isocenter, but .* ends only at -60.0 mm"),
        (dict(aperture=square(10.0, -380.0)), r"begins -445.0 mm .* at -400.0 mm; move it down"),
        (dict(range_shifter="wall", shifter_exit_mm=-250.0), "begins -450.0 mm"),
        (dict(range_shifter="pmma"), "shifter_exit_mm of the beam at gantry 0° is not set"),
    ],
)  # fmt: skip
def test_devices_where_there_is_no_room_for_them_are_refused(tank, machine, spots, beam, message):
    with pytest.raises(ValueError, match=message):
        tank.dose(spots(machine, **beam), 10)


def test_devices_turn_with_the_gantry(box, machine, spots):
    cube = box((60.0, 60.0, 60.0), 4.0)
    hole = Aperture(((-12.0, -4.0), (0.0, -4.0), (0.0, 4.0), (-12.0, 4.0)), -60.0)
    u = np.array([-6.0, 6.0])
    settings = dict(isocenter_mm=(0.0, 30.0, 0.0), aperture=hole)
    straight, turned = (
        cube.dose(spots(machine, u, gantry_deg=g, **settings), 4000, "electromagnetic")
        for g in (0.0, 90.0)
    )
    x, depth = cube.grid.axes_mm()[2], cube.depth_mm - 30.0
    # u is patient left (x) at gantry 0 and posterior (y) at gantry 90, through the middle
    at_0 = np.sum(x * straight.sum(axis=(0, 1))) / straight.sum()
    at_90 = np.sum(depth * turned.sum(axis=(0, 2))) / turned.sum()
    assert at_0 == pytest.approx(-6.0, abs=0.6)
    assert abs(at_90) == pytest.approx(6.0, abs=0.6)
