"""Measuring the pictures of a task on a split: what is compared with what, and what a report says."""

import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig
from components.data.scramble import Int64
from components.draws import Draws
from components.errors import UserError
from components.losses import psnr
from components.networks.encoder import build_encoder
from components.pictures.distances import frechet_distance, kernel_distance
from components.pictures.extractors import Extractor, encoder_extractor
from components.pictures.measure import MeasureConfig, chosen, measure_pictures, picture_rows
from components.pictures.similarity import l1, ssim
from components.tasks.base import Batch, Task, Tensors, all_tasks, build_task, makes_pictures

CPU = torch.device("cpu")
SAMPLES = 40


class Darken(Task):
    """Halves a picture; sample 7 becomes black."""

    name = "darken"
    titles: tuple[str, ...] = ("input", "prediction", "truth")

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {**batch, "z": draws.uniform(1)}

    def samples(self, inputs: Tensors) -> Tensors:
        image_B3HW = inputs["image"]
        made = torch.where(image_B3HW[:, :1, :1, :1] == 7 / 255, torch.zeros(()), image_B3HW / 2)
        rows = {"input": 1 - image_B3HW, "prediction": made, "truth": image_B3HW, "generated": image_B3HW.flip(3)}
        return {title: rows[title] for title in self.titles}


class Sampler(Darken):
    """Makes pictures of noise, of samples from another domain."""

    name = "sampler"
    needs = ("image", "other")

    def samples(self, inputs: Tensors) -> Tensors:
        return {"prediction": inputs["z"][..., None, None].expand(-1, 3, 16, 16)}


class Data:
    """Pictures whose first pixel is their number."""

    def __init__(self, side: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image, self.other = torch.randint(0, 256, (2, SAMPLES, 3, side, side), generator=generator).to(torch.uint8)
        self.image[:, :, 0, 0] = torch.arange(SAMPLES)[:, None]

    def __len__(self) -> int:
        return SAMPLES

    def get(self, ids: Int64) -> dict[str, Tensor]:
        return {"image": self.image[ids], "other": self.other[ids]}


@pytest.fixture
def extractor() -> Extractor:
    torch.manual_seed(0)
    return encoder_extractor(build_encoder(EncoderConfig(width=4, depth=1)).eval())


def test_predictions_and_inputs_are_compared_with_the_truth(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.pictures.measure.BATCH", 16)  # the last batch is a smaller one
    data = Data()
    score = measure_pictures(Darken(), data, MeasureConfig(), extractor, CPU)
    truth = data.image.float() / 255
    made = data.image.float().div(2).round() / 255
    made[7] = 0
    for title, picture in (("prediction", made), ("input", 1 - truth)):
        found = score.values[title]
        for name, function in (("l1", l1), ("psnr", psnr), ("ssim", ssim)):
            assert found[name] == pytest.approx(float(function(picture, truth).mean()), rel=1e-5)
        real, other = (extractor((x * 255).round().to(torch.uint8)) for x in (truth, picture))
        assert found["frechet"] == pytest.approx(frechet_distance(real, other), rel=1e-4)
        kernel = kernel_distance(real, other)
        assert found["kernel"] == pytest.approx(kernel.value, rel=1e-3)
        assert found["kernel_error"] == pytest.approx(kernel.error, rel=1e-3)
    assert score.n == SAMPLES and score.split == "val" and score.worst[0] == 7 and len(score.worst) == 8
    assert score.protocol["features"] == 4 and not score.warnings


def test_without_a_truth_only_sets_are_compared_and_with_the_other_domain(extractor: Extractor) -> None:
    data = Data()
    score = measure_pictures(Sampler(), data, MeasureConfig(seed=3), extractor, CPU)
    assert score.values.keys() == {"prediction"}
    assert score.values["prediction"].keys() == {"frechet", "kernel", "kernel_error"}
    z = Draws(3, torch.arange(SAMPLES)).uniform(1)
    made = (z[..., None, None].expand(-1, 3, 16, 16) * 255).round().to(torch.uint8)
    wanted = frechet_distance(extractor(data.other), extractor(made))
    assert score.values["prediction"]["frechet"] == pytest.approx(wanted, rel=1e-4)
    assert score.worst == ()


def test_pictures_of_noise_are_measured_beside_predictions(extractor: Extractor) -> None:
    both = Darken()
    both.titles = ("prediction", "truth", "generated")
    score = measure_pictures(both, Data(), MeasureConfig(), extractor, CPU)
    assert score.values["generated"].keys() == {"frechet", "kernel", "kernel_error"}
    assert score.values["prediction"].keys() > score.values["generated"].keys()


def test_a_part_of_the_split_has_the_pictures_of_the_whole(extractor: Extractor) -> None:
    ids = chosen(SAMPLES, 25)
    assert len(set(ids.tolist())) == 25 and (ids[1:] > ids[:-1]).all()
    few = picture_rows(Sampler(), Data(), ids[3:5], 3, CPU)["prediction"]
    every = picture_rows(Sampler(), Data(), chosen(SAMPLES, None), 3, CPU)["prediction"]
    assert torch.equal(few, every[ids[3:5]])
    assert measure_pictures(Darken(), Data(), MeasureConfig(samples=25), extractor, CPU).n == 25


def test_too_few_samples_for_the_features_are_said(extractor: Extractor) -> None:
    wide = encoder_extractor(build_encoder(EncoderConfig(width=64, depth=1)).eval())
    (warning,) = measure_pictures(Darken(), Data(), MeasureConfig(), wide, CPU).warnings
    assert "40 samples for 64 features" in warning


def test_an_extractor_that_does_not_see_colours_is_said() -> None:
    lightness = encoder_extractor(build_encoder(EncoderConfig(width=4, depth=1, input="l")).eval())
    (warning,) = measure_pictures(Darken(), Data(), MeasureConfig(), lightness, CPU).warnings
    assert "does not see colours" in warning


def test_pictures_too_small_for_the_window_have_no_ssim() -> None:
    score = measure_pictures(Darken(), Data(8), MeasureConfig(), None, CPU)
    assert score.values["prediction"].keys() == {"l1", "psnr"} and "11 pixels" in score.warnings[0]


def test_what_cannot_be_measured_is_refused(extractor: Extractor) -> None:
    with pytest.raises(UserError, match=r"at least 20 samples, and 19 of the val split"):
        measure_pictures(Darken(), Data(), MeasureConfig(samples=19), extractor, CPU)
    with pytest.raises(UserError, match=r"no truth.*extractor"):
        measure_pictures(Sampler(), Data(), MeasureConfig(), None, CPU)
    silent = Darken()
    silent.titles = ("input",)
    with pytest.raises(UserError, match="makes no pictures"):
        measure_pictures(silent, Data(), MeasureConfig(), None, CPU)


def test_tasks_know_whether_they_make_pictures() -> None:
    moved = {"rotation", "jigsaw", "context_prediction", "supervised", "random", "rescaled", "simclr"}
    for name, task in all_tasks().items():
        if task.__module__.startswith("components.tasks."):
            assert makes_pictures(task) == (name not in moved), name
    turned = build_task("rotation", {}, EncoderConfig(width=4), 16, 0, seed=0).eval()
    with pytest.raises(UserError, match=r"'rotation' makes no pictures: give the run of one that does \(autoencoder"):
        measure_pictures(turned, Data(16), MeasureConfig(), None, CPU)


def test_pictures_that_are_not_finite_have_no_bytes() -> None:
    class Lost(Darken):
        def samples(self, inputs: Tensors) -> Tensors:
            return {title: picture / 0 for title, picture in super().samples(inputs).items()}

    with pytest.raises(UserError, match=r"pictures that are not numbers \(input\)"):
        measure_pictures(Lost(), Data(16), MeasureConfig(), None, CPU)
