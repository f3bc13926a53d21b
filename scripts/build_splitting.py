"""Print TABLE of engine/dose/yoda/splitting.py in a minute: `python -m scripts.build_splitting`."""

from engine.dose.yoda.splitting import RingScheme, optimized_scheme

NAMES = "1", "1+6", "1+6+12", "1+6+6+12", "1+6+6+12+12+24", "1+6+12+18+24+30+36"


def entry(scheme: RingScheme) -> str:
    columns = f"{scheme.n_beamlets:11d} | {scheme.mismatch:.1e} | {scheme.deviation:.1e}"
    quality = f"{columns} | {scheme.second_moment:.4f} | {scheme.mean_spread:.3f}"
    rows = "\n".join(f"        ({w:.7f}, {r:.7f}, {s:.7f})," for w, r, s in scheme.rings)
    return f'    # {quality}\n    "{scheme.name}": (\n{rows}\n    ),'


if __name__ == "__main__":
    print("TABLE = {")
    for name in NAMES:
        print(entry(optimized_scheme([int(n) for n in name.split("+")])))
    print("}")
