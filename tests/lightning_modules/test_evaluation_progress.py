"""The lines that a test prints while it runs."""

from kafnets.attacks import PGD, Square
from lightning_modules.callbacks import EvaluationProgress, RobustnessReport


def test_a_long_batch_tells_attack_accuracies_and_time_left(make_trainer, make_module, make_data, capsys):
    report = RobustnessReport(white_box=[PGD(steps=2)], black_box=[Square(queries=30)], curve_images=2)
    trainer = make_trainer(report, EvaluationProgress(every=0.005), limit_test_batches=1)
    trainer.test(make_module(), datamodule=make_data(), verbose=False)  # one batch, of all images
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("test | ")]
    assert lines[0].startswith("test | PGD-2-1 Linf eps 0.1 (step_size=0.05) | ")
    (square,) = {line.partition(" min")[0].rpartition(" | ")[0] for line in lines if "Square" in line}
    assert square.startswith("test | black Square-30-1 Linf eps 0.1 (3 of 5) | clean ")
    assert " of 40 | robust " in square and square.endswith(" of 40")
    assert all(line.endswith(" min left") for line in lines if "Square" in line)
