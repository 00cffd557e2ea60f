"""The model card: true to the files of the run, and silent about what was not measured."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nexus import checkpoint, cli
from nexus.errors import NexusError, RunError
from nexus.models.vision import VisionTransformer
from nexus.training import TrainConfig
from nexus.weights import model_card, save_backbone, write_card

SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 1}


def a_run(folder: Path, *, step: int = 10, **provenance: Any) -> Path:
    settings = TrainConfig().model_dump(mode="json")
    settings["schedule"] |= {"steps": 10, "batch_size": 8}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "evals").mkdir()
    facts = {"step": step, "steps": 10, "data": "folder imgs/", "images": 40, "seed": 0, **provenance}
    save_backbone(
        VisionTransformer(**SMALL), folder, provenance=facts, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    return folder


def row(**changes: Any) -> dict[str, Any]:
    values = {"features": "model", "task": "knn", "metric": "top1", "value": 0.783, "interval": [0.75, 0.81]}
    return {**values, "unit": "%", "higher_is_better": True, "samples": 636, "chance": 0.1, **changes}


def evaluation(folder: Path, *, older: bool = False, model: str | None = None) -> None:
    result = {
        "model": model or str(folder),
        "data": "labelled/",
        "table": [row(), row(features="raw pixels")],
    }
    file = folder / "evals" / "eval.json"
    file.write_text(json.dumps(result))
    written = (folder / "model.safetensors").stat().st_mtime
    os.utime(file, (written, written - 10 if older else written + 10))


def front_matter(card: str) -> dict[str, Any]:
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_the_front_matter_is_what_hubs_read(tmp_path: Path) -> None:
    values = front_matter(model_card(a_run(tmp_path / "a")))
    assert values["license"] == "unknown"
    assert values["pipeline_tag"] == "image-feature-extraction"
    assert "dinov2" in values["tags"]
    assert front_matter(model_card(a_run(tmp_path / "b", licence="CC-BY-4.0")))["license"] == "cc-by-4.0"
    card = model_card(a_run(tmp_path / "c", licence="only for my friends"))
    assert front_matter(card)["license"] == "other"
    assert "The file states: only for my friends." in card


def test_the_hub_s_own_library_reads_it(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(a_run(tmp_path / "a", licence="Apache-2.0")))
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-feature-extraction"


def test_what_is_in_the_run_is_in_the_card(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    card = model_card(run)
    count = sum(parameter.numel() for parameter in VisionTransformer(**SMALL).parameters())
    for text in (
        "vit of width 64, depth 2, 1 heads (patch14), trained on folder imgs/",
        f"| parameters | {count:,} |",
        "| images | 40 |",
        "| steps | 10 of 10 |",
        "8 images; 2.0 passes over the images",
        "mean [0.1, 0.2, 0.3], standard deviation [0.4, 0.5, 0.6]",
        "2 of 224 px (area 0.32 to 1) and 8 of 96 px",
        "blur_global2 0.9",
        "multiples of 14",
    ):
        assert text in card, text
    assert "not finished" not in card


def test_without_measurements_nothing_is_claimed(tmp_path: Path) -> None:
    card = model_card(a_run(tmp_path / "a"))
    results = card.partition("## Results")[2].partition("## Input")[0]
    assert "Nothing was measured, so nothing is claimed" in results
    assert "%" not in results
    assert "how they do on others was not measured" in card


def test_results_are_those_of_the_files(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    evaluation(run)
    scores = {"step": 10, "knn": row(value=0.5, samples=1234)}
    (run / "evals" / "step_0000010.json").write_text(json.dumps(scores))
    (run / "evals" / "step_0000005.json").write_text(json.dumps({"step": 5, "knn": row(value=0.9)}))
    (run / "evals" / "broken.json").write_text("{")
    (run / "evals" / "strange.json").write_text('{"table": [{"features": "model"}, 3]}')
    card = model_card(run)
    for line in (
        "| labelled/ | model | knn | top1 | 78.3 % | 75.0 % – 81.0 % | 636 |",
        "| labelled/ | raw pixels | knn | top1 | 78.3 % | 75.0 % – 81.0 % | 636 |",
        "| labelled part, while training | teacher | knn | top1 | 50.0 % | 75.0 % – 81.0 % | 1,234 |",
    ):
        assert f"{line} 10.0 % | these weights |" in card
    assert "90.0" not in card


def test_any_task_is_told(tmp_path: Path) -> None:
    """Depth in metres, lower is better; detection without chance; a row without a value is left out."""
    run = a_run(tmp_path / "a")
    depth = row(task="depth", metric="RMSE", unit="m", value=0.614, interval=[0.561, 0.67], chance=0.5142)
    depth["higher_is_better"] = False
    table = [depth, row(task="instance", metric="box AP", chance=None), row(task="empty", value=None)]
    (run / "evals" / "eval.json").write_text(json.dumps({"model": str(run), "data": "d", "table": table}))
    online = {"step": 10, "linear": row(), "segmentation": row(metric="mIoU")}
    (run / "evals" / "step_0000010.json").write_text(json.dumps(online))
    card = model_card(run)
    for line in (
        "| d | model | depth | RMSE (lower is better) | 0.614 m | 0.561 m – 0.67 m | 636 | 0.514 m |",
        "| d | model | instance | box AP | 78.3 % | 75.0 % – 81.0 % | 636 |  |",
        "| teacher | linear | top1 | 78.3 % |",
        "| teacher | segmentation | mIoU | 78.3 % |",
    ):
        assert line in card
    assert "empty" not in card
    assert "Fairness, robustness and leakage" in card
    table.append(row(task="robustness/clean"))
    (run / "evals" / "eval.json").write_text(json.dumps({"model": str(run), "data": "d", "table": table}))
    assert "Fairness and leakage" in model_card(run)


def test_results_of_other_weights_say_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    evaluation(run, older=True)
    (run / "evals" / "step_0000005.json").write_text(json.dumps({"step": 5, "knn": row()}))
    card = model_card(run)
    assert "earlier weights of this run |" in card
    assert "| step 5 |" in card
    evaluation(run, model="runs/other")
    assert "another model: runs/other |" in model_card(run)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    card = model_card(a_run(tmp_path / "a", step=4))
    assert "| steps | 4 of 10: **the training is not finished** |" in card
    assert "* The training is not finished." in card


def test_names_of_users_are_no_markup(tmp_path: Path) -> None:
    card = model_card(a_run(tmp_path / "a", data="<script>|`x`\n# title"))
    assert "<script>" not in card
    assert "\n# title" not in card


def test_only_cards_are_written_over(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    path = write_card(run)
    assert path == run / "README.md"
    evaluation(run)
    assert "78.3" in write_card(run).read_text()
    path.write_text("my own notes")
    with pytest.raises(RunError, match="exists and is no card"):
        write_card(run)
    assert path.read_text() == "my own notes"
    write_card(run, overwrite=True)
    assert "Results" in path.read_text()
    assert write_card(run, tmp_path / "docs" / "card.md").read_text() == path.read_text()
    assert write_card(run, tmp_path / "docs") == tmp_path / "docs" / "README.md"


def test_folders_without_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(NexusError, match="is no run folder"):
        model_card(tmp_path)
    (tmp_path / "config.yaml").write_text("schedule: {steps: 10}\n")
    checkpoint.save(tmp_path / "checkpoints", 5, {"x": torch.zeros(1)}, {}, keep=2)
    with pytest.raises(NexusError, match=r"no model\.safetensors yet"):
        model_card(tmp_path)


def test_the_verb(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run = a_run(tmp_path / "a")
    assert cli.run(["card", str(run)]) == 0
    assert capfd.readouterr().out == f"card: {run / 'README.md'}\n"


def test_a_run_that_is_overwritten_takes_its_card_along(tmp_path: Path) -> None:
    from nexus.training.run import RunFolder

    run = a_run(tmp_path / "a")
    write_card(run)
    RunFolder(run).create(overwrite=True)
    assert not (run / "README.md").exists()
    other = a_run(tmp_path / "b")
    (other / "README.md").write_text("my own notes")
    RunFolder(other).create(overwrite=True)
    assert (other / "README.md").read_text() == "my own notes"
