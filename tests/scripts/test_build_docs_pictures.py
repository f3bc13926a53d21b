"""The pictures of the documentation are written by the command that it names.

What they show: tests/test_docs.py.
"""

from matplotlib.image import imread

from scripts import build_docs_pictures


def test_every_family_is_drawn_into_a_file_of_its_name(tmp_path, monkeypatch, tiny_cases, capsys):
    drawn = {"voxel_mask": build_docs_pictures.DRAWN["voxel_mask"]}
    monkeypatch.setattr(build_docs_pictures, "DRAWN", drawn)
    monkeypatch.setattr(build_docs_pictures, "PICTURES", tmp_path / "pictures")
    build_docs_pictures.main()
    image = imread(tmp_path / "pictures" / "voxel_mask.png")
    assert image.shape[1] == 1000
    assert image[:, :, :3].std() > 0.1
    assert "voxel_mask.png" in capsys.readouterr().out
