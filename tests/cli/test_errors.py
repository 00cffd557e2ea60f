"""Whatever users get wrong: one message on standard error, exit code 2, nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nexus import cli
from nexus.cli.failures import explain
from nexus.models.vision import architecture, build_backbone
from nexus.weights import save_backbone

DATA = "synthetic:n=16,size=32,classes=2"
TRAIN = f"train --data {DATA} --out new --recipe smoke --steps 1"
EMBED = f"embed --data {DATA} --model good --out new.npy"
EVAL = f"eval --data {DATA} --model good"
EXPORT = "export --model good --format onnx --out new.onnx"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that one can point at by mistake."""
    root = tmp_path_factory.mktemp("world")
    for name in ("empty", "text", "flat", "good", "run"):
        (root / name).mkdir()
    (root / "text" / "notes.txt").write_text("words")
    (root / "run" / "config.yaml").write_text("schedule: {steps: 5}\ncrops: {}\nobjective: {}\n")
    for index in range(3):
        pixels = np.full((32, 32, 3), index * 40, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "flat" / f"{index}.png")
    network = build_backbone(architecture("vit_tiny_patch8", img_size=32, depth=1, embed_dim=64, num_heads=1))
    half = (0.5, 0.5, 0.5)
    save_backbone(network, root / "good", file_name="model.safetensors", provenance={}, mean=half, std=half)
    (root / "cut.safetensors").write_bytes((root / "good" / "model.safetensors").read_bytes()[:2000])
    (root / "text.pth").write_text("hello")
    (root / "void.pth").write_bytes(b"")
    (root / "old.npy").write_bytes(b"old")
    (root / "old.onnx").write_bytes(b"old")
    (root / "bad.yaml").write_text("a: [")
    (root / "typo.yaml").write_text("optim: {lrr: 1}")
    (root / "twice.yaml").write_text("optim: {lr: 1}\ncrops: {}\noptim: {lr: 2}\n")
    (root / "hollow.yaml").write_text("optim:\n")
    (root / "loop.yaml").write_text("extends: ./loop.yaml\n")
    (root / "gone.txt").write_text("gone-1.png\ngone-2.png\n")
    (root / "edited").mkdir()
    (root / "edited" / "config.yaml").write_text("schedule: {steps: many}\ncrops: {}\nobjective: {}\n")
    return root


def state(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in sorted(root.rglob("*"))}


CASES = [
    # the shape of the command
    ("nope", "no such command 'nope'"),
    ("data crops --data x --out new.png", "no option --data; this command takes its data without a name"),
    ("train --dat x", "no option --dat; did you mean --data?"),
    ("train --optim.lr 3", "settings are written without dashes: optim.lr=VALUE"),
    ("train --steps abc", "'--steps': it should be a whole number"),
    ("train --out", "'--out' requires an argument"),
    ("embed --data x", "missing option '--model'"),
    ("inspect", "missing argument 'PATH'"),
    ("inspect a b", "unexpected extra argument"),
    ("train", "--out says where"),
    ("train --out new", "no data given: --data takes"),
    # settings
    (f"{TRAIN} imgs", "'imgs' is not a setting; write section.key=value"),
    (f"{TRAIN} optim.lrr=1", "did you mean 'optim.lr'?"),
    (f"{TRAIN} optim.lr=abc", "optim.lr=abc should be a number; for example optim.lr=0.004"),
    (f"{TRAIN} optim.lr=-1", "optim.lr=-1 should be 0 or more"),
    (f"{TRAIN} optim.beta2=1", "optim.beta2=1 should be less than 1"),
    (f"{TRAIN} data.workers=-1", "data.workers=-1 should be 0 or more"),
    (f"{TRAIN} --steps 0", "schedule.steps=0 should be more than 0"),
    (f"{TRAIN} --seed -1", "seed=-1 should be 0 or more"),
    (f"{TRAIN} --batch-size 0", "schedule.batch_size=0 should be more than 0"),
    (f"{TRAIN} --batch-size 7 schedule.accumulation=2", "use schedule.batch_size=8"),
    (f"{TRAIN} --batch-size 1", "KoLeo compares images with each other; use schedule.batch_size=2, or"),
    (f"{TRAIN} --batch-size 64", "use schedule.batch_size=16, or switch KoLeo off with"),
    (f"{TRAIN} --precision fp8", "unknown compute.precision 'fp8'. Known: bf16, fp16, fp32"),
    (f"{TRAIN} --device gpu", "unknown device 'gpu'; did you mean 'cpu'?"),
    (f"{TRAIN} --device cpu:1", "cpu devices here are 0 to 0"),
    (f"{TRAIN} --model vit_tiny_patch14", "crops.global_size=32 is not a multiple of the patch size 14"),
    (
        f"{TRAIN} --model vit_tiny_patch14 crops.global_size=224 crops.local_size=96",
        "crops.local_size=96 is not a multiple of the patch size 14 of vit_tiny_patch14; use "
        "crops.local_size=98",
    ),
    (f"{TRAIN} --model vit_smal_patch14", "did you mean 'vit_small_patch14'?"),
    (f"{TRAIN} model.num_heads=7", "embed_dim=64 cannot be shared evenly by num_heads=7"),
    (
        f"{TRAIN} objective.dino_weight=0 objective.ibot_weight=0 objective.koleo_weight=0",
        "are all 0, so there is nothing to learn from; set one of them",
    ),
    (f"{TRAIN} --seed 2147483648", "seed=2147483648 should be less than 2147483648; for example seed=0"),
    # recipes, configurations, folders
    (f"{TRAIN} --recipe twice.yaml", "twice.yaml is not valid YAML: line 3: 'optim' twice"),
    (f"{TRAIN} --recipe hollow.yaml", "optim is an empty section; leave it out, or set one of its keys"),
    (f"{TRAIN} --recipe loop.yaml", "loop.yaml extends itself"),
    (f"train --data {DATA} --recipe smoke --out edited", "edited already holds a run (step 0)"),
    (f"{TRAIN} --recipe smok", "did you mean 'smoke'?"),
    (f"{TRAIN} --recipe none.yaml", "cannot read the settings in none.yaml"),
    (f"{TRAIN} --recipe bad.yaml", "bad.yaml is not valid YAML: line 1"),
    (f"{TRAIN} --recipe typo.yaml", "did you mean 'optim.lr'?"),
    (f"{TRAIN} --config none.yaml", "cannot read the settings in none.yaml"),
    (f"train --data {DATA} --recipe smoke --out text", "not empty and holds no run"),
    (f"train --data {DATA} --recipe smoke --out run", "already holds a run"),
    (f"train --data {DATA} --recipe smoke --out bad.yaml", "bad.yaml is a file"),
    ("train --resume empty", "holds no run to resume"),
    ("train --resume none", "holds no run to resume"),
    ("train --resume run --out new", "leave out --out"),
    ("train --resume run --recipe smoke --overwrite", "leave out --recipe and --overwrite"),
    # data
    ("train --out new --data emty", "did you mean"),
    ("train --out new --data empty", "empty is empty; name a folder"),
    ("train --out new --data text", "no images in text"),
    ("train --out new --data synthetic:m=3", "unknown setting 'm'"),
    (f"train --out new --data {DATA} data.split=val", "has no splits"),
    (
        "train --out new --data gone.txt",
        "none of the 2 images looked at can be used: gone-1.png (no such file)",
    ),
    ("train --out new --data flat data.limits.min_side=500", "below data.limits.min_side=500"),
    (
        "train --out new --data nowhere://bucket/x.tar",
        "cannot read nowhere://bucket/x.tar: Protocol not known",
    ),
    (f"{TRAIN} online_eval.data=none", "none does not exist"),
    ("train --out new --data synthetic:n=1,size=32 --recipe smoke", "only one image"),
    # weights
    (f"{TRAIN} --init none.pth", "there is no none.pth"),
    (f"{TRAIN} --init text.pth", "text.pth is no weight file: it is text"),
    (f"{TRAIN} --init good model.depth=2", "good"),
    (f"{EMBED} --model none", "'none' is no file, run folder or architecture"),
    (f"{EMBED} --model cut.safetensors", "damaged or incomplete"),
    (f"{EMBED} --model void.pth", "it is empty"),
    (f"{EMBED} --model empty", "empty is no run folder"),
    # embed
    (f"{EMBED} --out new.csv", "unknown feature file ending '.csv'. Known: .npy, .parquet, .safetensors"),
    (f"{EMBED} --out old.npy", "old.npy exists; choose another --out"),
    (
        f"{EMBED} --out old.npy/new.npy",
        "the folder old.npy cannot be made: File exists; choose another --out",
    ),
    (f"{EMBED} --size 0", "size=0"),
    (f"{EMBED} --batch-size 0", "batch_size=0"),
    (f"{EMBED} --workers -1", "workers=-1"),
    (f"{EMBED} --precision fp8", "unknown precision 'fp8'"),
    (f"{EMBED} --device gpu", "unknown device 'gpu'"),
    (f"{EMBED} --encoder techer", "did you mean 'teacher'?"),
    (f"{EMBED} --data empty", "empty is empty"),
    # export
    ("export --model good --out new.onnx", "missing option '--format'"),
    ("export --model good --format onnxx --out new.onnx", "unknown format 'onnxx'; did you mean 'onnx'?"),
    ("export --model good --format onnx --out new.pt", "should; use new.onnx"),
    ("export --model good --format onnx --out old.onnx", "old.onnx exists; choose another --out"),
    ("export --model none --format onnx --out new.onnx", "'none' is no file, run folder or architecture"),
    (f"{EXPORT} --outputs cls,patchs", "unknown output 'patchs'; did you mean 'patches'?"),
    (f"{EXPORT} --outputs layer:7", "the model has 1 blocks; use layer:0 to layer:0"),
    (f"{EXPORT} --outputs layer", "needs the block, counted from 0; write layer:8"),
    (f"{EXPORT} --outputs registers", "registers do not exist in this model; leave it out"),
    (f"{EXPORT} --outputs cls,cls", "names one output twice"),
    (f"{EXPORT} --outputs ,", "no outputs are asked for"),
    (f"{EXPORT} --size 100", "size=100,100 is not whole patches of 8 px; use size=96,96"),
    (f"{EXPORT} --size 1,2,3", "should be one number or H,W"),
    (f"{EXPORT} --size 64 --dynamic all", "size=64 fixes height and width"),
    (f"{EXPORT} --dynamic hww", "unknown dynamic 'hww'; did you mean 'hw'?"),
    (f"{EXPORT} --precision bf16", "unknown precision 'bf16'; did you mean 'fp16'?"),
    (f"{EXPORT} --opset 11", "opset=11 is too old: PyTorch's exporter writes 18 to 23"),
    (f"{EXPORT} --opset 99", "opset=99 is too new"),
    (f"{EXPORT} --normalize int8", "unknown normalize 'int8'; did you mean 'uint8'?"),
    (f"{EXPORT} --images text", "no images in text"),
    ("export --model good --format torchscript --out new.pt --opset 20", "is for format=onnx only"),
    # eval, inspect, demo
    (f"{EVAL} --task knnn", "unknown task 'knnn'; did you mean 'knn'?"),
    (f"{EVAL} --limit 0", "'--limit'"),
    (f"{EVAL} --out void.pth/new", "the folder void.pth/new cannot be made: Not a directory; choose another"),
    (f"{EVAL} --out text.pth", "text.pth is a file"),
    (f"{EVAL} --data flat", "has no labels"),
    ("inspect none", "none does not exist"),
    ("inspect text", "no images in text"),
    ("demo --steps 0 --out new", "schedule.steps=0 should be more than 0"),
]


@pytest.mark.parametrize(("command", "message"), CASES, ids=[case[0][:70] for case in CASES])
def test_one_message_exit_code_2_and_nothing_created(
    command: str, message: str, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(world)
    before = state(world)
    monkeypatch.setattr(sys, "argv", ["nexus", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == ""
    complaint = said.err.rstrip("\n").rpartition("nexus: ")[2]
    assert message in complaint
    assert said.err.count("nexus: ") == 1
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 3  # what was found in the data may come before
    assert state(world) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "command", [f"{TRAIN} --device cuda", f"{EMBED} --device cuda:1", f"{EVAL} --device cuda"]
)
def test_a_gpu_that_is_not_there(
    command: str, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(world)
    before = state(world)
    assert cli.run(command.split()) == 2
    assert "is not there: torch" in capfd.readouterr().err
    assert state(world) == before


# -- other endings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("x"), 1, "nexus hit a bug: KeyError: 'x'; please report it with the output of --debug"),
        (ValueError("a\nb"), 1, "nexus hit a bug: ValueError: a; please"),
        (OSError("odd"), 1, "nexus hit a bug: OSError"),
        (PermissionError(13, "Permission denied", "out/x"), 2, "refuses out/x: Permission denied; mend the"),
        (OSError(28, "No space left on device"), 2, "No space left on device; free space"),
        (MemoryError(), 2, "out of memory; use a smaller batch"),
        (torch.OutOfMemoryError("CUDA"), 2, "schedule.accumulation=2"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_said_when_something_breaks(error: BaseException, code: int, message: str) -> None:
    text, found = explain(error)
    assert (found, message in text) == (code, True)


@pytest.mark.parametrize("debug", [False, True])
def test_the_traceback_is_for_debug_only(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def broken(path: str) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("nexus.weights.inspect", broken)
    words = ["inspect", "x", *(["--debug"] if debug else [])]
    assert cli.run(words) == 1
    said = capfd.readouterr()
    assert "nexus: nexus hit a bug: ZeroDivisionError: oh" in said.err
    assert ("Traceback" in said.err) is debug


def test_debug_keeps_the_exit_code_of_a_user_error(capfd: pytest.CaptureFixture) -> None:
    assert cli.run(["--debug", "train"]) == 2
    assert "Traceback" in capfd.readouterr().err


PROGRAM = [sys.executable, "-c", "from nexus.cli import main; main()"]


def test_the_program_in_its_own_process() -> None:
    done = subprocess.run([*PROGRAM, "train", "--stps", "3"], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "nexus: no option --stps; did you mean --steps? (`nexus train --help` lists the options)\n"
    )


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in `nexus inspect x | head -1`."""
    words = [*PROGRAM, "inspect", "vit_tiny_patch8"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        complaint = program.stderr.read()
        assert (program.wait(timeout=200), complaint) == (0, b"")
