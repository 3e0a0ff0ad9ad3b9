"""The command line: ``python cli.py fit|validate|test|predict --config NAME [--config NAME ...] [--key value ...]``.

The commands study, compare, inspect, export and dashboard are tools of their own:
``lightning_modules/command_line/tools.py``.
"""

import os
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar, WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import distributed

from datamodules import ImageDataModule
from lightning_modules import Classifier
from lightning_modules.callbacks import (
    BestAndLast,
    CertificateReport,
    Collapse,
    EpochBar,
    EpochLines,
    EvaluationProgress,
    FiniteLoss,
    History,
    OverfittingGuard,
    Pictures,
    Predictions,
    Results,
    RobustnessReport,
    RunConfig,
    Throughput,
    WeightAverage,
)
from lightning_modules.callbacks.finite_loss import NonFiniteLossError
from lightning_modules.checkpoint_io import AtomicCheckpointIO
from lightning_modules.command_line.arguments import ASKING, SUBCOMMANDS, resolve, take
from lightning_modules.command_line.checkpoints import check_fits, check_resumable, read_checkpoint
from lightning_modules.command_line.error_text import one_line
from lightning_modules.command_line.launcher import LauncherError, check_processes, environments
from lightning_modules.command_line.messages import is_first, quieten, say_engines
from lightning_modules.command_line.monitors import check_monitors
from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.command_line.processes import lost_process
from lightning_modules.command_line.run_folder import discard_if_empty, new_version
from lightning_modules.command_line.signals import status, stop_on_signals
from lightning_modules.command_line.sizes import SIZES, check_size, size_flags
from lightning_modules.command_line.tools import TOOLS, check_command, run_tool

CONFIGS = Path(__file__).resolve().parent / "configs"


def as_list(value: Any) -> list[Any]:
    """Return a Trainer argument as a list, which is empty for None and booleans."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]


class CLI(LightningCLI):
    """LightningCLI with run folders, checked checkpoints and a test of the best checkpoint after every fit."""

    run_folder: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        asked = [name for name in self.subcommands() if kwargs["args"][:1] == [name]]
        if asked:  # the parsers of the other subcommands would take a third of the time of a command line
            only = {name: self.subcommands()[name] for name in asked}
            self.subcommands = lambda: only  # type: ignore[method-assign]
        try:
            super().__init__(*args, **kwargs)
        finally:
            if self.run_folder and is_first():
                discard_if_empty(self.run_folder)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser with one-line errors."""
        parser = OneLineParser(**kwargs)
        where = "Config file: a path, or a bare name in configs/; may be repeated."
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=where)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of run folder, checkpoints and seed."""
        parser.add_argument("--run.dir", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--run.name", type=str, default="unnamed", help="Default: the config names, joined by +.")
        parser.add_argument("--run.test", type=bool, default=True, help="Whether fit ends with a test.")
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/robust_accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best-{epoch:03d}",
                "checkpoint.save_last": True,
                "checkpoint.save_on_train_epoch_end": True,
            }
        )
        parser.read_integers_as_counts()  # type: ignore[attr-defined]  # it is one of init_parser
        for part in ("model", "data"):
            parser.link_arguments("seed_everything", f"{part}.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line that :func:`resolve` has prepared; the data tells the network's sizes."""
        self.config = parser.parse_args([*args, *self._size_flags(parser, args)])

    @staticmethod
    def _size_flags(parser: LightningArgumentParser, args: list[str]) -> list[str]:
        running = [arg for arg in args if arg.partition("=")[0] != "--print_config"]
        if not args or args[0] not in SUBCOMMANDS or ASKING & set(running):
            return []
        # without defaults, a seed must be given, because the seeds of model and data follow it
        stated = parser.parse_args([args[0], "--seed_everything=0", *running[1:]], defaults=False)[args[0]]
        return size_flags(stated, ImageDataModule, trained=bool(take(args, "--ckpt_path")[0]))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check that the parts fit together, then create the run folder; nothing is written before."""
        check_processes(self._get(self.config_init, "trainer"))
        self._check_images()
        self._check_checkpoint()
        config = self._get(self.config_init, "trainer")
        self._make_room(config)
        if config.get("fast_dev_run"):
            return super().instantiate_trainer(**kwargs | {"logger": False})
        for callback in as_list(config.get("callbacks")):
            if isinstance(callback, RobustnessReport | CertificateReport):
                callback.study_within(self.model.threat)  # refuses attacks that do not fit the threat model
        if self.subcommand == "fit":
            check_monitors([self._get(self.config_init, "checkpoint"), *as_list(config.get("callbacks"))])
        run = self._get(self.config, "run")
        for logger in as_list(config.get("logger")):
            if hasattr(logger, "keep_in"):
                logger.keep_in(run.dir)
        if str(config.get("devices")) == "1" and config.get("num_nodes") == 1:
            # this run is one process, even if a launcher left a RANK in the environment
            rank_zero_only.rank = 0  # type: ignore[attr-defined]
        # other ranks write nothing and receive the folder from rank 0
        version = new_version(Path(run.dir), run.name) if is_first() else 0
        csv = CSVLogger(run.dir, run.name, version)
        self.run_folder = Path(csv.log_dir)
        kwargs["logger"] = [csv, *as_list(config.get("logger"))]
        plugins = as_list(config.get("plugins"))
        kwargs["plugins"] = [*plugins, *environments(plugins), AtomicCheckpointIO()]
        trainer = super().instantiate_trainer(**kwargs)
        for part in (self.model, self.datamodule):
            part.check_trainer(trainer, fitting=self.subcommand == "fit")
        stop_on_signals(trainer)
        return trainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands; ``test`` loses ``verbose``, because Results prints a fuller table."""
        commands = LightningCLI.subcommands()
        return commands | {"test": commands["test"] | {"verbose"}}

    def test(self, **kwargs: Any) -> None:
        """Test; the table is printed by the callback that writes ``results.json``."""
        self.trainer.test(verbose=False, **kwargs)

    def after_fit(self) -> None:
        """Test the best checkpoint; if there is none, the last one or the current weights, and print which.

        Weight averaging would load the weights before averaging, to train on; a later test gets the averaged ones.
        """
        if self._get(self.config, "trainer").fast_dev_run or not self._get(self.config, "run").test:
            return
        kept = self.trainer.checkpoint_callback
        best, last = (str(getattr(kept, f"{which}_model_path", "")) for which in ("best", "last"))
        if not best and is_first():
            print(f"no validation chose a best checkpoint; testing {last or 'the weights as they are: none was kept'}")
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [item for item in callbacks if not isinstance(item, WeightAveraging)]
        self.test(model=self.model, datamodule=self.datamodule, ckpt_path=best or last or None)

    def _make_room(self, config: Any) -> None:
        """Drop the default callbacks that the user has switched off or replaced, or that a callback replaces."""
        theirs = as_list(config.get("callbacks"))
        if config.get("enable_checkpointing") is False:
            self._parser(self.subcommand).callback_keys.clear()
        replaced: tuple[type, ...] = tuple(type(item) for item in theirs)
        for item in theirs:
            replaced += getattr(item, "replaces", ())
        if config.get("enable_progress_bar") is False or any(isinstance(item, ProgressBar) for item in theirs):
            replaced += (ProgressBar,)
        ours = [item for item in self.trainer_defaults["callbacks"] if not isinstance(item, replaced)]
        self.trainer_defaults = self.trainer_defaults | {"callbacks": ours}

    def _check_images(self) -> None:
        net, data = self.model.net, self.datamodule
        for name in SIZES:  # once more, for networks that do not take them as arguments
            check_size(name, getattr(data, name), getattr(net, name), data, type(net).__name__, trained=True)
        for size in data.train_sizes:
            if problem := net.refusal(size):
                raise ValueError(f"{type(data).__name__} trains on {size} pixels in one of its phases: {problem}")

    def _check_checkpoint(self) -> None:
        path = self._get(self.config, "ckpt_path")
        if path:
            checkpoint = read_checkpoint(Path(path))
            check_fits(Path(path), checkpoint, self.model)
            if self.subcommand == "fit":
                callbacks = as_list(self._get(self.config_init, "trainer").get("callbacks"))
                averages = any(isinstance(item, WeightAverage) for item in callbacks)
                check_resumable(Path(path), checkpoint, self.model.configure_optimizers(), averages=averages)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a known mistake ends it with one line on stderr and exit status 2."""
    quieten()
    say_engines()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        check_command(given, SUBCOMMANDS)
        if run_tool(given):
            return
        CLI(
            Classifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=RunConfig,
            parser_kwargs={
                "description": f"Train and test networks; other commands, each with --help: {', '.join(TOOLS)}."
            },
            trainer_defaults={
                "use_distributed_sampler": False,  # data modules shard by themselves, without padding
                "callbacks": [
                    Throughput(),
                    FiniteLoss(),
                    Collapse(),
                    OverfittingGuard(),
                    History(),
                    EpochLines(),
                    EvaluationProgress(),
                    EpochBar(),
                    Pictures(),
                    Results(),
                    Predictions(),
                ],
            },
            args=resolve(given, [CONFIGS]),
        )
    except SIGTERMException:
        raise SystemExit(status()) from None  # Lightning itself would exit with status 0
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError, MisconfigurationException, NonFiniteLossError) as error:
        if os.environ.get("KAFNETS_TRACEBACK"):
            raise
        if is_first() or not isinstance(error, NonFiniteLossError | LauncherError):  # which all ranks raise together
            print(f"error: {one_line(str(error))}  (KAFNETS_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(2) from None
    except RuntimeError as error:
        line = lost_process(error)
        if line is None or os.environ.get("KAFNETS_TRACEBACK"):
            raise
        if line:
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    # otherwise the process group sometimes aborts at exit; after an error, this call could wait for other ranks
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.path.append(os.getcwd())  # class paths may name the user's own modules in the working directory
    main()
