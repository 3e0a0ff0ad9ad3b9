"""The checks of benchmarks/gpu_checks.py, on a GPU; on a machine without one they compare the CPU with itself."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu
import gpu_checks
import record

CHECKS = dict(gpu_checks.checks())
SLOW_ON_A_CPU = ("net PreActResNet18", "torch.compile", "autocast torch.float16")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU; benchmarks/gpu.py runs these on a machine that has one"
)
@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_computes_what_the_cpu_does(name: str):
    CHECKS[name](torch.device("cuda"))


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in SLOW_ON_A_CPU])
def test_the_check_itself_runs(name: str):
    CHECKS[name](torch.device("cpu"))


def test_a_dry_run_writes_every_part(tmp_path: Path):
    threads = torch.get_num_threads()
    parts = ["kernels", "training", "imagenet", "runs", "attacks"]
    gpu.main(["--dry_run", f"--out={tmp_path}", "--parts", *parts])
    torch.set_num_threads(threads)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in parts}
    assert all("error" not in part and part["machine"] and part["code"] for part in found.values())
    assert found["kernels"]["float32 (8, 8, 8, 8)"]["SiLU"]["times_silu"] == 1
    assert found["training"]["KafVGG, KAF"]["ours"][0] > 0
    assert found["imagenet"]["ResNet50, KAF, 64 px, batch 4"]["images_per_second"] > 0
    assert found["runs"]["KafVGG, ReLU"]["robust_images"] == 20
    assert found["attacks"]["AutoAttack on KafVGG, KAF"]["images"] == 8


@pytest.mark.slow
def test_a_dry_run_of_the_records_trains_and_tests_each_config(tmp_path: Path):
    out = tmp_path / "records.json"
    record.main(["--dry_run", "--seeds", "0", "--images=8", f"--runs={tmp_path}", f"--out={out}"])
    found = json.loads(out.read_text())
    for name, target in record.TARGETS.items():
        assert found[name]["target"] == target
        assert found[name]["mean_seconds"] > 0
        (row,) = found[name]["seeds"]
        assert row["attack"]["attack"] == "AutoAttack"
        assert row["run"]["objective"].startswith("ProgressiveResizing-NFGSM")


def test_a_missing_gpu_is_an_error_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main([f"--out={tmp_path / 'out'}"])
    assert "there is no CUDA device; --dry_run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
