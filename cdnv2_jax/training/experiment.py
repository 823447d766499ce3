"""Base class of experiments: a config made ready to train, evaluate and finish. Classification and detection derive
from it and provide data, network, loss and metrics."""

import abc
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import jax
import optax
from flax import nnx
from rich.console import Console

from cdnv2_jax import stopping
from cdnv2_jax.data.batches import BrokenImages, HostBatch, RowMaker, Share
from cdnv2_jax.data.on_device import Normalisation
from cdnv2_jax.data.prefetch import host_batches
from cdnv2_jax.data.source import Picture, Source, Split
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import bytes_under, write_text
from cdnv2_jax.networks.family import family_of
from cdnv2_jax.networks.network import Form, Network
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.pruning.prune import stages_passed
from cdnv2_jax.report.figures import comparison_table, median_milliseconds, milliseconds_per_call
from cdnv2_jax.report.learning import plot_run
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.training.step import Batch, Metrics, TrainState, TrainStep, create_state, make_train_step
from cdnv2_jax.training.workdir import SUMMARY_FILE


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on the held-out images.

    Attributes:
      metrics: by name, as `metrics.jsonl` records them.
      score_name: the metric by which networks are compared; higher is better.
      not_finite: number of images for which the network returned NaN or infinity; no metric is right then.
    """

    metrics: Mapping[str, float]
    not_finite: int = dataclasses.field(default=0, kw_only=True)

    score_name: ClassVar[str]

    @property
    def score(self) -> float:
        """The value of the metric by which networks are compared."""
        return self.metrics[self.score_name]

    @property
    def headline(self) -> str:
        """The most important metrics in a few words."""
        raise NotImplementedError

    @property
    def warning(self) -> str:
        """The end of the headline, empty if all is well."""
        return f", but NaN or infinity for {self.not_finite:,} images" if self.not_finite else ""

    @property
    def recorded(self) -> dict[str, float]:
        """The metrics as files hold them: without any that is not finite, and with `not_finite` unless it is 0."""
        finite = {name: value for name, value in self.metrics.items() if math.isfinite(value)}
        return {**finite, "not_finite": self.not_finite} if self.not_finite else finite


def refuse_several_processes() -> None:
    """Raise UserError unless this process is the only one: exported programs run in one process."""
    if jax.process_count() > 1:
        raise UserError("an exported program is evaluated by one process: start a single one")


ConfigT = TypeVar("ConfigT", bound=RunConfig)
SourceT = TypeVar("SourceT", bound=Source[Picture])
ModelT = TypeVar("ModelT", bound=nnx.Module)
EvaluationT = TypeVar("EvaluationT", bound=Evaluation)


@dataclasses.dataclass(frozen=True)
class Candidate(Generic[ModelT, EvaluationT]):
    """A network that a run may keep.

    Attributes:
      weights: which of the run's weights it has, "EMA" or "live".
      model: the network, in evaluation mode.
      evaluation: its metrics.
    """

    weights: str
    model: ModelT
    evaluation: EvaluationT

    def __str__(self) -> str:
        return f"{self.evaluation.headline} ({self.weights} weights)"


def best_of(candidates: Sequence[Candidate[ModelT, EvaluationT]]) -> Candidate[ModelT, EvaluationT]:
    """Return the candidate with the highest score, of equal ones the first; any without NaN precedes one with it."""
    return max(candidates, key=lambda one: (not one.evaluation.not_finite, one.evaluation.score))


class Experiment(abc.ABC, Generic[ConfigT, SourceT, ModelT, EvaluationT]):
    """A config and the devices it runs on. A new one can `evaluate`; `prepare_training` adds what training needs.

    Attributes:
      config: settings of the experiment.
      devices: devices that batches are sharded over.
      normalisation: normalisation of images, computed on the devices.
      held_out: the held-out images.
      remarks: what the user should know about this use of data and network, one line each.
      broken: held-out images that turned out to be unreadable; they are skipped.
      train_images: the images to train on.
      row: makes this process's rows of training batches.
      steps_per_epoch: updates in an epoch.
      total_steps: updates in the run.
      schedule: step → learning rate.
      optimizer: the optimizer with this schedule.
      stages: number of condensation stages of the network.
      costs: {form: `cost`} of the network, masked and condensed if it has both; empty without a cost rule.
      graph: the network's structure; merged with a `TrainState` it gives the network.
    """

    device_fields: ClassVar[Sequence[str]]
    """Fields of a training batch that the step takes."""
    summary_metric: ClassVar[str]
    """The metric of `summary.json` that is stored in a saved network's metadata."""
    summary_rows: ClassVar[Sequence[str]]
    """The figures of `summary.json` in the table printed at the end."""
    per_replica: bool = False
    """Whether each device normalises its own part of the batch, so that results depend on the number of devices."""

    train_images: SourceT
    row: RowMaker
    steps_per_epoch: int
    total_steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    stages: int
    costs: dict[str, dict[str, int]]
    graph: nnx.GraphDef

    def __init__(self, config: ConfigT, devices: Devices):
        self.config, self.devices = config, devices
        self.normalisation = Normalisation(config.data.mean, config.data.std)
        self.remarks: list[str] = []
        self.held_out = self.open_source("val")
        self.broken = BrokenImages(self.held_out, config.data.max_broken_images, config.data.max_megapixels)

    def prepare_training(self) -> None:
        """Open the training images and build network and optimizer.

        Raises:
          UserError: the config cannot be used; found here, before anything is written.
        """
        config = self.config
        self._check_batch()
        self.train_images = self.open_source("train")
        self.row, self.steps_per_epoch = self.training_row()
        self.total_steps = config.epochs * self.steps_per_epoch
        self.schedule = learning_rate_schedule(
            config.optimizer, self.total_steps, self.steps_per_epoch, config.data.batch_size
        )
        model = self.build_model()
        backbone = self.backbone_of(model)
        backbone.remat, self.stages = config.remat, backbone.condensation_stages
        self.costs = self._costs_of(model, backbone)
        self.optimizer = self.build_optimizer(model)
        self.graph, self._state = create_state(model, self.optimizer, set_training_mode=self.set_training_mode)

    def _costs_of(self, model: ModelT, backbone: Network) -> dict[str, dict[str, int]]:
        if family_of(backbone.architecture).cost is None:
            return {}
        forms = {backbone.form_name: backbone.form}
        if backbone.form_name == "masked":
            forms["condensed"] = Form(condensed=True)
        return {name: self.cost(model, form) for name, form in forms.items()}

    def data_lines(self) -> list[str]:
        """Say what was found, one line for each split that is open, with what was skipped and why."""
        where = " ".join(filter(None, [self.config.data.source, self.config.data.directory]))
        sources = [("held out", self.held_out)]
        if hasattr(self, "train_images"):
            sources.insert(0, ("train", self.train_images))
        return [
            "; ".join(
                [f"{split}: {len(source):,} images of {len(source.class_names):,} classes, {where}", *source.remarks]
            )
            for split, source in sources
        ]

    # For subclasses to provide.

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What is trained, in a few words."""

    @abc.abstractmethod
    def open_source(self, split: Split) -> SourceT:
        """Open the images of one split; UserError if they are missing or do not fit the network."""

    @abc.abstractmethod
    def training_row(self) -> tuple[RowMaker, int]:
        """Return (maker of this process's rows of training batches, batches per epoch)."""

    @abc.abstractmethod
    def evaluation_row(self) -> tuple[RowMaker, int]:
        """Return (maker of this process's rows of evaluation batches, batches that hold every image once)."""

    @abc.abstractmethod
    def build_model(self) -> ModelT:
        """Build the network that training starts from; UserError if it cannot be trained on these images."""

    @abc.abstractmethod
    def loss(self, model: ModelT, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Return (scalar to minimise, scalars to record, including "loss") of a preprocessed batch."""

    @abc.abstractmethod
    def preprocessing(self) -> Callable[[Batch, jax.Array], Batch]:
        """Return a function (batch of `device_fields`, step) → batch for `loss`, computed on the devices."""

    @abc.abstractmethod
    def evaluate_batches(self, model: ModelT, batches: Iterator[HostBatch]) -> EvaluationT:
        """Evaluate a network in evaluation mode on all batches of `evaluation_row`."""

    @abc.abstractmethod
    def inference(self, model: ModelT, batch: HostBatch) -> Callable[[], Any]:
        """Return a function that computes the network's outputs for an evaluation batch on one device, for timing."""

    @abc.abstractmethod
    def backbone_of(self, model: ModelT) -> Network:
        """Return the part that is pruned and condensed: a detector's backbone, or the whole classifier."""

    @abc.abstractmethod
    def save(self, path: Path, model: ModelT, metadata: Mapping[str, Any]) -> None:
        """Save a network as a checkpoint that every command opens, replacing an existing one."""

    @abc.abstractmethod
    def figures(self, evaluation: EvaluationT) -> dict[str, Any]:
        """Return an evaluation as stored in `summary.json`."""

    @abc.abstractmethod
    def cost(self, model: ModelT, form: Form) -> dict[str, int]:
        """Return the cost of one image in a form of the pruned part, as stored in `summary.json`: "multiply_adds",
        "params" and, for a classifier, "flops" by the official convention."""

    @abc.abstractmethod
    def write_results(self, workdir: Path, evaluations: Mapping[str, EvaluationT]) -> dict[str, Any]:
        """Write the files of the last evaluation; return the entries of `summary.json` about all of them together."""

    def build_optimizer(self, model: ModelT) -> optax.GradientTransformation:
        """Build the config's optimizer for all parameters."""
        return make_optimizer(self.config.optimizer, self.schedule)

    def set_training_mode(self, model: ModelT) -> None:
        """Put the network into training mode."""
        model.train()

    # Used by training.

    def data_facts(self) -> dict[str, dict[str, Any]]:
        """Return {"train", "val": {"images", "classes", "fingerprint"}}, by which a resumed run knows its data."""
        return {
            split: {"images": len(source), "classes": len(source.class_names), "fingerprint": source.fingerprint()}
            for split, source in (("train", self.train_images), ("val", self.held_out))
        }

    def shard(self, batch_size: int) -> Share:
        """Return this process's shard of every batch of that size."""
        return Share(batch_size, jax.process_index(), jax.process_count())

    def initial_state(self) -> TrainState:
        """Return the initial state on all devices; a new copy each time."""
        return self.devices.replicate(self._state)

    def state_shapes(self) -> TrainState:
        """Return the shapes and dtypes of a state."""
        return jax.eval_shape(lambda state: state, self._state)

    def train_step(self) -> TrainStep:
        """Return the compiled train step, which takes the `device_fields` of batches made by `row`."""
        return make_train_step(
            self.graph,
            self.optimizer,
            self.loss,
            ema_decay=self.config.ema_decay,
            accumulate=self.config.accumulate,
            preprocess=self.preprocessing(),
            devices=self.devices,
            per_replica=self.per_replica,
            precision=self.config.model.precision,
        )

    def _check_batch(self) -> None:
        """Raise UserError unless every micro-batch divides evenly among the devices."""
        batch_size, count = self.config.data.batch_size, self.devices.count
        self.devices.check_batch(batch_size, "config.data.batch_size")
        if batch_size % (self.config.accumulate * count):
            raise UserError(
                f"config.accumulate {self.config.accumulate} does not divide the {batch_size // count} images "
                f"that each of {count} devices gets of a batch"
            )

    # Evaluation.

    @property
    def eval_batch_size(self) -> int:
        """The config's `eval_batch_size`, rounded up to a multiple of the number of devices."""
        return -(-self.config.data.eval_batch_size // self.devices.count) * self.devices.count

    def evaluate(self, model: ModelT) -> EvaluationT:
        """Evaluate a network in evaluation mode on every held-out image once; all processes get the same metrics.

        Raises:
          UserError: more images than `config.data.max_broken_images` are unreadable.
          Terminated: SIGTERM has asked the program to end.
        """
        return self.evaluate_with(lambda batches: self.evaluate_batches(model, batches))

    def evaluate_with(self, run: Callable[[Iterator[HostBatch]], EvaluationT]) -> EvaluationT:
        """Return the result of a function of all batches of `evaluation_row`; raises what `evaluate` does."""
        row, count = self.evaluation_row()
        with host_batches(row, 0, count, self.config.data.workers) as batches:
            return run(self._checked(next(batches)) for _ in range(count))

    def _checked(self, batch: HostBatch) -> HostBatch:
        stopping.check()
        self.broken.check(batch)
        return batch

    def milliseconds_per_image(self, models: Mapping[str, ModelT]) -> dict[str, float]:
        """Time inference on this process's rows of the first evaluation batch; return each network's median by name."""
        with host_batches(self.evaluation_row()[0], 0, 1, 0) as batches:
            batch = next(batches)
        calls = {name: self.inference(model, batch) for name, model in models.items()}
        return median_milliseconds(milliseconds_per_call(calls), images=len(batch["image"]))

    # The end of a run.

    def finish(self, candidates: Sequence[Candidate[ModelT, EvaluationT]], workdir: Path, console: Console) -> None:
        """Condense the best trained network, evaluate and time both forms, and write the run's results to `workdir`.

        These are masked/ and condensed/ (or condensed/ or plain/ alone, if there is nothing to condense), the plots,
        the files of `write_results` and, last, summary.json: {"weights": those kept, form: {metrics, cost,
        "bytes_on_disk", "ms_per_image"}, …, weights: {metrics} of each of several candidates, …, "stages_passed"}.
        Every process takes part in the evaluation; the first one measures and writes.
        """
        kept = best_of(candidates)
        form = self.backbone_of(kept.model).form_name
        models, evaluations = {form: kept.model}, {form: kept.evaluation}
        if form == "masked":
            models["condensed"] = condense(kept.model)
            evaluations["condensed"] = self.evaluate(models["condensed"])
        if not is_first_process():
            return
        milliseconds = self.milliseconds_per_image(models)
        summary: dict[str, Any] = {"weights": kept.weights}
        for name, model in models.items():
            figures, path = self.figures(evaluations[name]), workdir / name
            self.save(path, model, {"weights": kept.weights, self.summary_metric: figures[self.summary_metric]})
            sizes = {"bytes_on_disk": bytes_under(path), "ms_per_image": milliseconds[name]}
            summary[name] = {**figures, **self.costs.get(name, {}), **sizes}
        if len(candidates) > 1:
            summary |= {one.weights: self.figures(one.evaluation) for one in candidates}
        summary |= self.write_results(workdir, evaluations)
        if form == "masked":
            summary["stages_passed"] = stages_passed(self.backbone_of(kept.model))
        plot_run(read_metrics(workdir), workdir)
        write_text(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
        console.print(comparison_table(summary, list(models), self.summary_rows))
        if len(candidates) > 1:
            others = "; ".join(str(one) for one in candidates if one is not kept)
            console.print(f"kept in {' and '.join(models)}: {kept}; not kept: {others}")
        for name, evaluation in evaluations.items():
            if evaluation.not_finite:
                console.print(f"{name}: {evaluation.headline}")
