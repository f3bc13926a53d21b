"""Measure steps a second in one process and in several, engine calls, start-up and memory.

Writes into the folder ``output``: speed.txt, speed.json, config.yaml, record.json.
"""

import json
import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ptenv.benchmark.speed import SpeedSettings, chosen_ids, hardware, measure, tables
from scripts.record import output_folder, save_record


def run(cfg: DictConfig) -> None:
    """One table; what is measured is written id by id."""
    folder = output_folder()
    save_record(cfg, folder)
    plain = OmegaConf.to_object(cfg)
    settings = SpeedSettings(**{f.name: plain[f.name] for f in fields(SpeedSettings)})
    ids, rows, machine = chosen_ids(plain["ids"]), [], hardware()

    for number, id in enumerate(ids, start=1):
        rows += measure([id], settings, partial(_tell, f"[{number}/{len(ids)}]"))
        _write(folder, {"hardware": machine, "settings": asdict(settings), "rows": rows})

    print(f"\n{tables(rows, machine)}\n\nWritten to {folder}/")


def _tell(place: str, text: str) -> None:
    print(f"{place} {text}", flush=True)


def _write(folder: Path, found: dict) -> None:
    (folder / "speed.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = tables(found["rows"], found["hardware"])
    (folder / "speed.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main(["benchmark_speed", *sys.argv[1:]]))
