"""The objectives against the papers' formulas written naively in fp64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamtune.training import losses

N, SHAPE = 6, (4, 5, 3)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x0": torch.randn(N, *SHAPE, generator=generator),
        "noise": torch.randn(N, *SHAPE, generator=generator),
        "a": torch.tensor([0.0, 1e-6, 0.1, 0.5, 0.9991, 1.0], dtype=torch.float64),
    }


def naive(batch: dict[str, torch.Tensor], first: str, second: str) -> torch.Tensor:
    """sqrt(a) first -/+ sqrt(1 - a) second, element by element."""
    result = torch.empty(N, *SHAPE, dtype=torch.float64)
    sign = 1 if first == "x0" else -1
    for i in range(N):
        a = float(batch["a"][i])
        for index in torch.cartesian_prod(*[torch.arange(size) for size in SHAPE]).tolist():
            one, two = float(batch[first][i][tuple(index)]), float(batch[second][i][tuple(index)])
            result[i][tuple(index)] = math.sqrt(a) * one + sign * math.sqrt(1 - a) * two
    return result


def test_noising(batch: dict[str, torch.Tensor]) -> None:
    noisy = losses.add_noise(batch["x0"], batch["noise"], batch["a"])
    torch.testing.assert_close(noisy.double(), naive(batch, "x0", "noise"), atol=1e-6, rtol=1e-6)
    assert torch.equal(noisy[0], batch["noise"][0]), "at zero terminal SNR nothing of the picture may be left"


def test_targets(batch: dict[str, torch.Tensor]) -> None:
    assert losses.target(**batch, prediction_type="epsilon") is batch["noise"]
    v = losses.target(**batch, prediction_type="v_prediction")
    torch.testing.assert_close(v.double(), naive(batch, "noise", "x0"), atol=1e-6, rtol=1e-6)


def test_both_targets_determine_the_picture(batch: dict[str, torch.Tensor]) -> None:
    """x0 = sqrt(a) x_t - sqrt(1 - a) v, at every noise level, the last included."""
    a = batch["a"].reshape(-1, 1, 1, 1)
    x0, noise = batch["x0"].double(), batch["noise"].double()
    noisy = losses.add_noise(x0, noise, batch["a"])
    v = losses.target(x0, noise, batch["a"], "v_prediction")
    torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * v, x0)


@given(a=st.floats(1e-9, 1 - 1e-9), gamma=st.floats(0.1, 100))
def test_min_snr_is_the_papers_ratio(a: float, gamma: float) -> None:
    snr = a / (1 - a)
    tensor = torch.tensor([a], dtype=torch.float64)
    epsilon = float(losses.min_snr_weight(tensor, gamma, "epsilon"))
    velocity = float(losses.min_snr_weight(tensor, gamma, "v_prediction"))
    assert epsilon == pytest.approx(min(snr, gamma) / snr, rel=1e-6)
    assert velocity == pytest.approx(min(snr, gamma) / (snr + 1), rel=1e-6)


@given(a=st.floats(1e-6, 1 - 1e-6))
def test_weighted_errors_agree_between_parametrisations(a: float) -> None:
    """Min-SNR weights the error of x0; err(e) = snr err(x0) and err(v) = (snr + 1) err(x0)."""
    snr = a / (1 - a)
    tensor = torch.tensor([a], dtype=torch.float64)
    through_epsilon = float(losses.min_snr_weight(tensor, 5.0, "epsilon")) * snr
    through_velocity = float(losses.min_snr_weight(tensor, 5.0, "v_prediction")) * (snr + 1)
    assert through_epsilon == pytest.approx(through_velocity, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_min_snr_at_both_ends(dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert losses.min_snr_weight(ends, 5.0, "epsilon").tolist() == [1.0, 0.0]
    assert losses.min_snr_weight(ends, 5.0, "v_prediction").tolist() == [0.0, 0.0]


def test_min_snr_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    timesteps = torch.arange(1000)
    snr = diffusers.training_utils.compute_snr(scheduler, timesteps).double()
    a = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(losses.min_snr_weight(a, 5.0, "epsilon"), snr.clamp(max=5) / snr, rtol=1e-3, atol=0)
    velocity = losses.min_snr_weight(a, 5.0, "v_prediction")
    torch.testing.assert_close(velocity, snr.clamp(max=5) / (snr + 1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("a", [1e-6, 0.005, 0.3, 0.9, 0.99])
def test_debiased_estimation_is_the_papers_weight(a: float) -> None:
    """1/sqrt(snr) of the error of e; the same objective for v, whose error is 1/a times that of e."""
    snr, at = a / (1 - a), torch.tensor([a], dtype=torch.float64)
    assert losses.debiased_weight(at, "epsilon").item() == pytest.approx(snr**-0.5, rel=1e-9)
    x0, noise = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    noisy = losses.add_noise(x0, noise, at)
    guess = noise + 0.3 * torch.randn(noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0_guess = (noisy - (1 - a) ** 0.5 * guess) / a**0.5
    v_guess = a**0.5 * guess - (1 - a) ** 0.5 * x0_guess
    of_e = losses.debiased_weight(at, "epsilon") * (guess - noise).square().mean()
    of_v = (
        losses.debiased_weight(at, "v_prediction")
        * (v_guess - losses.target(x0, noise, at, "v_prediction")).square().mean()
    )
    assert of_v.item() == pytest.approx(of_e.item(), rel=1e-9)


def test_debiased_estimation_at_both_ends() -> None:
    ends = torch.tensor([0.0, 1000 / 1001, 0.9999, 1.0], dtype=torch.float64)
    least = 1000**-0.5  # what almost clean pictures have
    assert losses.debiased_weight(ends[1:], "epsilon").tolist() == pytest.approx([least] * 3)
    assert losses.debiased_weight(ends, "v_prediction").tolist() == pytest.approx(
        [0, 1000 / 1001 * least, 0.9999 * least, least]
    )


def test_velocity_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, *SHAPE, generator=generator)
    timesteps = torch.tensor([0, 10, 500, 998, 999])
    a = scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(
        losses.target(x0, noise, a, "v_prediction"), scheduler.get_velocity(x0, noise, timesteps)
    )
    torch.testing.assert_close(losses.add_noise(x0, noise, a), scheduler.add_noise(x0, noise, timesteps))


def test_squared_error_is_in_fp32() -> None:
    errors = losses.squared_error(torch.tensor([1.0, 2.0, 300.0]).half(), torch.zeros(3).half())
    assert errors.dtype == torch.float32
    assert errors.tolist() == [1.0, 4.0, 90000.0], "half precision ends at 65504"


def test_mean_error_is_per_sample_and_weighed_by_the_mask() -> None:
    errors = torch.tensor([[[[1.0, 2.0]], [[3.0, 10.0]]], [[[5.0, 0.0]], [[7.0, 0.0]]]])  # (2, 2 channels, 1, 2)
    assert losses.mean_error(errors).tolist() == [4.0, 3.0]
    mask = torch.tensor([[[1.0, 0.5]], [[1.0, 0.0]]])
    assert losses.mean_error(errors, mask).tolist() == pytest.approx([(2 * 1 + 6 * 0.5) / 1.5, 6.0])
    assert losses.mean_error(errors, torch.ones(2, 1, 2)).tolist() == [4.0, 3.0]
    assert losses.mean_error(errors, torch.zeros(2, 1, 2)).tolist() == [0.0, 0.0]


def test_cells_outside_the_mask_have_no_gradient() -> None:
    prediction = torch.randn(1, 4, 3, 3, requires_grad=True)
    mask = torch.zeros(1, 3, 3)
    mask[0, 1, 1] = 0.25
    errors = losses.squared_error(prediction, torch.zeros_like(prediction))
    losses.mean_error(errors, mask).sum().backward()
    assert prediction.grad is not None
    inside = prediction.grad[:, :, 1, 1]
    torch.testing.assert_close(inside, prediction.detach()[:, :, 1, 1] / 2)
    assert prediction.grad.count_nonzero() == inside.count_nonzero() == 4


def test_offset_noise_moves_a_channel_as_a_whole() -> None:
    noise, shift = torch.randn(2, 3, 4, 4), torch.randn(2, 3)
    moved = losses.offset_noise(noise, shift, 0.1) - noise
    torch.testing.assert_close(moved, (0.1 * shift)[:, :, None, None].expand_as(noise))


def test_zero_terminal_snr_is_algorithm_1() -> None:
    """Against the paper's own form, in betas, as diffusers has it, and at its two ends."""
    diffusers = pytest.importorskip("diffusers")
    plain = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    betas = diffusers.schedulers.scheduling_ddpm.rescale_zero_terminal_snr(plain.betas.double())
    ours = losses.zero_terminal_snr(plain.alphas_cumprod)
    torch.testing.assert_close(ours, (1 - betas).cumprod(0), atol=1e-7, rtol=1e-5)
    assert float(ours[-1]) == 0
    assert float(ours[0]) == pytest.approx(float(plain.alphas_cumprod[0]), rel=1e-6)
    torch.testing.assert_close(losses.zero_terminal_snr(ours), ours)


@given(d=st.floats(-50, 50), c=st.floats(1e-3, 1))
def test_pseudo_huber_is_the_papers(d: float, c: float) -> None:
    """2 H_c with H_c(x) = c^2 (sqrt(1 + (x/c)^2) - 1): equation 4 of Khrapov et al."""
    error = losses.pseudo_huber(torch.full((1, 1, 1, 1), d), torch.zeros(1, 1, 1, 1), torch.tensor([c]))
    expected = 2 * c**2 * (math.sqrt(1 + (d / c) ** 2) - 1)
    assert float(error) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_pseudo_huber_is_squared_for_small_errors_and_linear_for_large_ones() -> None:
    d = torch.tensor([0.01, 100.0]).reshape(2, 1, 1, 1)
    small, large = losses.pseudo_huber(d, torch.zeros_like(d), torch.ones(2)).flatten().tolist()
    assert small == pytest.approx(0.01**2, rel=0.01)
    assert large == pytest.approx(2 * 100, rel=0.02)


def test_huber_width() -> None:
    a = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    progress = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert losses.huber_width(0.1, "constant", a, progress).tolist() == [0.1] * 3
    assert losses.huber_width(0.25, "exponential", a, progress).tolist() == pytest.approx([1, 0.5, 0.25])
    assert losses.huber_width(0.1, "snr", a, progress).tolist() == pytest.approx([1, 0.9 / 4 + 0.1, 0.1])


def test_dreambooth_halves() -> None:
    errors = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0])
    loss, subject, prior = losses.dreambooth_loss(errors, 2, 0.5)
    assert (float(subject), float(prior if prior is not None else -1), float(loss)) == (2.0, 20.0, 12.0)
    loss, subject, prior = losses.dreambooth_loss(errors[:2], 2, 0.5)
    assert (float(loss), float(subject), prior) == (2.0, 2.0, None)
