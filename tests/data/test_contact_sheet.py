"""The contact sheet: drawn for any number of crops, and the command that writes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.contact_sheet import caption, contact_sheet, main
from nexus.data.crops.parameters import Box, CropParameters
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation


def photo(width: int = 120, height: int = 90) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize(("number", "size"), [(8, (300, 200)), (0, (200, 300)), (11, (9, 400))])
def test_contact_sheet_shows_the_crops(number: int, size: tuple[int, int]) -> None:
    augmentation = MultiCropAugmentation(local_crops_number=number, global_size=56, local_size=28)
    crops = augmentation.crops(photo(*size), np.random.default_rng(0))
    masks = BlockMasker(MaskConfig(probability=1.0), 4, 4).batch(2, np.random.default_rng(0))
    sheet = contact_sheet(photo(*size), crops, masks)
    bare = contact_sheet(photo(*size), crops, torch.zeros_like(masks))
    assert sheet.size[0] > 1000
    assert sheet.tobytes() != bare.tobytes()


def test_caption_names_what_was_done() -> None:
    jitter = (("hue", 0.05), ("contrast", 0.9))
    box = Box(top=0, left=0, height=20, width=30)
    parameters = CropParameters("local", box, True, False, False, jitter, False, 1.26, False)
    assert caption(parameters) == ["30 x 20 px", "flip, blur 1.3", "hue +0.05   con 0.90"]


def test_command_writes_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "photo.jpg", tmp_path / "sheet.png"
    photo().save(source)
    assert main([str(source), "--out", str(target), "--preset", "byol", "--patch", "16"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    with Image.open(target) as sheet:
        assert sheet.format == "PNG"


def test_command_explains_an_unreadable_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nothing.jpg")])
    assert "nothing.jpg" in capsys.readouterr().err
