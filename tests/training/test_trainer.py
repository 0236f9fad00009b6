"""One step at a time on a tiny UNet: what is learned from which pictures, under which prompts, at which cost."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamtune.adapters import AttachedAdapter, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.data.example import Example
from dreamtune.errors import Interrupted, RunFolderError, TrainingError
from dreamtune.models.conditioning import Conditioning, unet_inputs
from dreamtune.training.batch import Batch, join
from dreamtune.training.checkpoints import Checkpoint, latest
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.loop import fit
from dreamtune.training.objective import Objective
from dreamtune.training.sampler import Part
from dreamtune.training.trainer import RunFiles, StepRecord

SIZE, WIDTH = 8, 16
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 12,
}


def make_unet(**options: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    ).requires_grad_(False)


def make_examples(
    *sizes: tuple[int, int], prompt: int = 0, seed: int = 0, time_ids: bool = False
) -> tuple[Example, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(6).float() if time_ids else None
    return tuple(Example(torch.randn(4, *size, generator=generator), prompt, None, ids) for size in sizes)


def make_prompts(count: int, pooled: int | None = None) -> tuple[Conditioning, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        Conditioning(
            torch.randn(5, WIDTH, generator=generator), torch.randn(pooled, generator=generator) if pooled else None
        )
        for _ in range(count)
    )


def make_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"images": Path("x"), "class_word": "dog", "steps": 3, "batch_size": 2, "device": "cpu"}
    values |= {"lr": 1e-2, "checkpoint_every": 0}
    return TrainConfig(**(values | changes))


def make_objective(config: TrainConfig) -> Objective:
    return Objective.of(torch.linspace(0.999, 0.005, 100), "epsilon", config)


SQUARES = make_examples(*[(SIZE, SIZE)] * 3)
CLASS = make_examples(*[(SIZE, SIZE)] * 4, prompt=1, seed=5)
PLAIN = TrainingData(SQUARES, (), make_prompts(1), ("a sks dog",))
WITH_PRIOR = TrainingData(SQUARES, CLASS, make_prompts(2), ("a sks dog", "a dog"))


class Run:
    """A training on a fresh UNet and what it left."""

    def __init__(self, folder: Path, data: TrainingData, config: TrainConfig, unet: Any = None, **options: Any) -> None:
        self.unet = unet or make_unet()
        self.attached: AttachedAdapter = attach(
            self.unet, LoRAConfig(rank=2, alpha=2.0, dropout=options.pop("dropout", 0.0)), seed=7
        )
        self.records: list[StepRecord] = []
        look: Callable[[Run], object] = options.pop("look", lambda run: None)
        self.files = RunFiles(
            folder, {"pictures": "x"}, lambda path: save_file(self.weights, path / "weights.safetensors")
        )

        def listen(record: StepRecord) -> None:
            self.records.append(record)
            look(self)

        fit(self.unet, self.attached, data, make_objective(config), config, self.files, on_step=listen, **options)

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.records]

    @property
    def weights(self) -> dict[str, Tensor]:
        return dict(self.attached.state_dict())


def same(first: Run, second: Run) -> bool:
    return all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


def forward_shapes(unet: UNet2DConditionModel, grad: bool | None = None) -> list[tuple[int, ...]]:
    """Filled with the shape of every batch that goes through `unet` from now on."""
    shapes: list[tuple[int, ...]] = []

    def watch(module: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        if grad is None or torch.is_grad_enabled() == grad:
            shapes.append(tuple(inputs[0].shape))

    unet.register_forward_pre_hook(watch, with_kwargs=True)
    return shapes


def test_equal_shapes_share_a_pass_and_others_take_a_second(tmp_path: Path) -> None:
    unet = make_unet()
    shapes = forward_shapes(unet)
    Run(tmp_path, WITH_PRIOR, make_config(steps=1), unet)
    assert shapes == [(4, 4, 8, 8)]
    wide = replace(WITH_PRIOR, subjects=make_examples((6, 10), (6, 10), (8, 8)))
    shapes.clear()
    Run(tmp_path, wide, make_config(steps=6), unet)
    assert sorted(shapes) == sorted([(2, 4, 6, 10), (2, 4, 8, 8)] * 4 + [(4, 4, 8, 8)] * 2)


def test_two_passes_give_the_gradient_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Run(tmp_path, WITH_PRIOR, make_config(steps=1))
    monkeypatch.setattr("dreamtune.training.trainer.join", list)
    apart = Run(tmp_path, WITH_PRIOR, make_config(steps=1))
    assert apart.losses == pytest.approx(together.losses, rel=1e-5)
    assert apart.records[0].grad_norm == pytest.approx(together.records[0].grad_norm, rel=1e-4)
    for part in ("subject_loss", "prior_loss"):
        assert getattr(apart.records[0], part) == pytest.approx(getattr(together.records[0], part), rel=1e-5)


def test_joined_batches_keep_order_masks_and_time_ids() -> None:
    objective = make_objective(make_config())
    masked = [replace(example, mask=torch.full((SIZE, SIZE), 0.5)) for example in SQUARES]
    part = Part([0, 2], torch.tensor([3, 50]), torch.randn(2, 4, SIZE, SIZE), torch.zeros(2, 4))
    first = Batch.noised(masked, part, objective, torch.device("cpu"))
    second = Batch.noised(CLASS, part, objective, torch.device("cpu"))
    (both,) = join([first, second])
    assert both.prompts == [0, 0, 1, 1]
    assert both.timesteps.tolist() == [3, 50, 3, 50]
    assert torch.equal(both.noisy[2:], second.noisy)
    assert both.mask is not None and both.mask[:, 0, 0].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert both.time_ids is None


def test_masks_reach_the_loss(tmp_path: Path) -> None:
    """A mask reaches the loss; one that shows all changes nothing."""
    mask = torch.zeros(SIZE, SIZE)
    mask[2:5, 2:5] = 1
    masked = replace(PLAIN, subjects=tuple(replace(example, mask=mask) for example in SQUARES))
    whole = replace(PLAIN, subjects=tuple(replace(example, mask=torch.ones(SIZE, SIZE)) for example in SQUARES))
    config = make_config(steps=1)
    plain = Run(tmp_path, PLAIN, config)
    assert Run(tmp_path, whole, config).losses == pytest.approx(plain.losses, rel=1e-6)
    assert Run(tmp_path, masked, config).losses != pytest.approx(plain.losses, rel=1e-3)


def test_time_ids_and_pooled_states_reach_the_unet(tmp_path: Path) -> None:
    prompts = make_prompts(1, pooled=12)
    data = TrainingData(make_examples(*[(8, 8)] * 3, time_ids=True), (), prompts, ("a sks dog",))
    first = Run(tmp_path, data, make_config(steps=1), make_unet(**SDXL))
    moved = tuple(replace(example, time_ids=torch.full((6,), 9.0)) for example in data.subjects)
    other = Run(tmp_path, replace(data, subjects=moved), make_config(steps=1), make_unet(**SDXL))
    assert first.losses != other.losses
    bare = tuple(replace(example, time_ids=None) for example in data.subjects)
    with pytest.raises(ValueError, match="needs time_ids"):
        Run(tmp_path, replace(data, subjects=bare), make_config(steps=1), make_unet(**SDXL))


def test_a_conditioner_replaces_the_cached_prompts(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    other = make_prompts(3)[2]

    def conditioner(prompts: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        asked.append(list(prompts))
        return unet_inputs([other] * len(prompts), time_ids)

    plain = Run(tmp_path, WITH_PRIOR, make_config(steps=2))
    replaced = Run(tmp_path, WITH_PRIOR, make_config(steps=2), conditioner=conditioner)
    assert asked == [[0, 0, 1, 1]] * 2
    assert replaced.losses != plain.losses


def test_prior_without_pictures_is_the_bases_own_prediction(tmp_path: Path) -> None:
    """At the first step the adapter is 0: the base agrees with itself. Later they part. One more pass, no gradients."""
    unet = make_unet()
    passes, free = forward_shapes(unet), forward_shapes(unet, grad=False)
    data = TrainingData(SQUARES, (), make_prompts(2), ("a sks dog", "a dog"), class_prompt=1)
    run = Run(tmp_path, data, make_config(steps=4), unet)
    first, *others = (record.prior_loss for record in run.records)
    assert first is not None and first < 1e-10
    assert all(loss is not None and loss > 1e-7 for loss in others)
    assert len(passes) == 8 and free == [(2, 4, 8, 8)] * 4
    assert run.attached.strength == 1


def test_that_prior_is_of_the_whole_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask says where the subject is; the class keeps its meaning everywhere."""
    masks, errors = list[Tensor | None](), Objective.errors

    def watch(self: Objective, prediction: Tensor, goal: Tensor, timesteps: Tensor, mask: Tensor | None) -> Tensor:
        masks.append(mask)
        return errors(self, prediction, goal, timesteps, mask)

    monkeypatch.setattr(Objective, "errors", watch)
    masked = tuple(replace(example, mask=torch.full((SIZE, SIZE), 0.25)) for example in SQUARES)
    data = TrainingData(masked, (), make_prompts(2), ("a sks dog", "a dog"), class_prompt=1)
    Run(tmp_path, data, make_config(steps=1))
    (mask,) = masks
    assert mask is not None and mask[:, 0, 0].tolist() == [0.25, 0.25, 1.0, 1.0]


def test_that_prior_holds_the_class_where_training_without_one_loses_it(tmp_path: Path) -> None:
    noisy, timesteps = torch.randn(6, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(3)), torch.arange(6) * 15
    prompts = make_prompts(2)

    def change(run: Run) -> float:
        inputs = unet_inputs([prompts[1]] * 6)
        with torch.no_grad():
            own = run.unet(noisy, timesteps, **inputs).sample
            with run.attached.disabled():
                base = run.unet(noisy, timesteps, **inputs).sample
        return float((own - base).square().mean())

    config = make_config(steps=30)
    free = Run(tmp_path, replace(PLAIN, prompts=prompts), config)
    data = TrainingData(SQUARES, (), prompts, ("a sks dog", "a dog"), class_prompt=1)
    held = Run(tmp_path, data, config.changed(prior_weight=10.0))
    assert change(held) < 0.5 * change(free)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulation_is_the_mean_over_its_positions(tmp_path: Path, dropout: float) -> None:
    """A step over two positions has the mean of their losses, and with the same draws as one by one."""
    still = make_config(lr=1e-30, steps=4, batch_size=1)
    single = Run(tmp_path, PLAIN, still, dropout=dropout)
    double = Run(tmp_path, PLAIN, still.changed(steps=2, accumulation=2), dropout=dropout)
    pairs = [sum(single.losses[start : start + 2]) / 2 for start in (0, 2)]
    assert double.losses == pytest.approx(pairs, rel=1e-6)


def test_gradient_checkpointing_changes_no_bit_and_is_off_afterwards(tmp_path: Path) -> None:
    plain = Run(tmp_path, WITH_PRIOR, make_config(), dropout=0.2)
    frugal = Run(tmp_path, WITH_PRIOR, make_config(gradient_checkpointing=True), dropout=0.2)
    assert frugal.losses == plain.losses
    assert same(frugal, plain)
    assert not frugal.unet.is_gradient_checkpointing


def test_gradient_checkpointing_keeps_less(tmp_path: Path) -> None:
    kept: dict[bool, int] = {}
    for frugal in (False, True):
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Run(tmp_path, PLAIN, make_config(steps=1, gradient_checkpointing=frugal))
        kept[frugal] = total
    assert kept[True] < kept[False], kept


def test_bf16_follows_fp32(tmp_path: Path) -> None:
    full, half = (Run(tmp_path, WITH_PRIOR, make_config(precision=p)) for p in ("fp32", "bf16"))
    assert half.losses == pytest.approx(full.losses, rel=0.03)
    assert half.losses != full.losses
    assert all(tensor.dtype == torch.float32 for tensor in half.weights.values())


def test_averages_are_what_is_seen_and_kept(tmp_path: Path) -> None:
    """Training goes on from the raw weights; listeners, files and the result have the average."""
    seen: list[dict[str, Tensor]] = []
    plain = Run(tmp_path, PLAIN, make_config(steps=5))
    config = make_config(steps=5, ema_decay=0.9)
    run = Run(
        tmp_path,
        PLAIN,
        config,
        look=lambda run: seen.append({name: tensor.clone() for name, tensor in run.weights.items()}),
    )
    assert run.losses == plain.losses, "the average must not act on training"
    assert not same(run, plain)
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    state, written = checkpoint.load(), load_file(checkpoint.path / "weights.safetensors")
    for name, tensor in run.weights.items():
        assert torch.equal(seen[-1][name], tensor)
        assert torch.equal(written[name], tensor)
        assert torch.equal(state["adapter"][name], plain.weights[name])


def test_averages_survive_an_interruption(tmp_path: Path) -> None:
    config = make_config(steps=6, ema_decay=0.9)
    whole = Run(tmp_path / "a", PLAIN, config)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        Run(tmp_path / "b", PLAIN, config, look=lambda run: stop.set() if len(run.records) == 2 else None, stop=stop)
    rest = Run(tmp_path / "b", PLAIN, config, resume=True)
    assert [record.step for record in rest.records] == [3, 4, 5, 6]
    assert same(rest, whole)


def test_dropout_is_resumed_exactly(tmp_path: Path) -> None:
    config = make_config(steps=4)
    whole = Run(tmp_path / "a", PLAIN, config, dropout=0.5)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        Run(tmp_path / "b", PLAIN, config, dropout=0.5, look=lambda run: stop.set(), stop=stop)
    assert same(Run(tmp_path / "b", PLAIN, config, dropout=0.5, resume=True), whole)


def test_other_number_of_processes_does_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, stop, load = make_config(steps=4), threading.Event(), Checkpoint.load
    with pytest.raises(Interrupted):
        Run(tmp_path, PLAIN, config, look=lambda run: stop.set(), stop=stop)

    def as_if_by_two(self: Checkpoint) -> dict[str, Any]:
        state = load(self)
        state["progress"]["processes"] += 1
        return state

    monkeypatch.setattr(Checkpoint, "load", as_if_by_two)
    with pytest.raises(RunFolderError, match="was trained in 2 processes, not 1: launch as many as before"):
        Run(tmp_path, PLAIN, config, resume=True)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_before_the_weights_change(tmp_path: Path, what: str) -> None:
    """A gradient alone may be damaged, after a good loss."""
    unet, seen, runs = make_unet(), list[dict[str, Tensor]](), list[Run]()

    def damage(run: Run) -> None:
        runs.append(run)
        seen.append({name: tensor.clone() for name, tensor in run.weights.items()})
        if len(seen) != 2:
            return
        if what == "loss":
            torch.nn.init.constant_(unet.conv_out.weight, float("nan"))
        else:
            next(run.attached.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(TrainingError, match=rf"the {what} became (nan|inf) at step 3; .*; the checkpoint of step 2 is"):
        Run(tmp_path, PLAIN, make_config(steps=4, checkpoint_every=2), unet, look=damage)
    assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in runs[0].weights.items())


def test_memory_that_is_not_enough_is_told_with_the_remedy(tmp_path: Path) -> None:
    unet = make_unet()

    def demand(module: Any, inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    unet.mid_block.register_forward_pre_hook(demand)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(TrainingError, match="memory is not enough: lower batch_size"):
        Run(tmp_path, PLAIN, make_config(gradient_checkpointing=True), unet)
    assert not unet.is_gradient_checkpointing


@pytest.mark.parametrize(
    "change",
    [{"noise_offset": 0.1}, {"huber_c": 0.1}, {"huber_c": 0.1, "huber_schedule": "exponential"}, {"snr_gamma": 0.1}],
    ids=str,
)
def test_variations_of_the_objective_reach_the_loss(tmp_path: Path, change: dict[str, Any]) -> None:
    plain, varied = Run(tmp_path, PLAIN, make_config(steps=1)), Run(tmp_path, PLAIN, make_config(steps=1, **change))
    assert varied.losses != pytest.approx(plain.losses, rel=1e-3)
