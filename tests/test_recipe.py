"""The recipe of the bundled model, end to end and tiny: it packs, resumes and repeats."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdstoolkit.toy import data, networks, reading, recipe
from sdstoolkit.toy.bundle import Budget, train_shapes
from sdstoolkit.toy.drawings import drawings as make_drawings
from sdstoolkit.toy.training import History, Plan, Share

BUDGET = Budget(drawings=512, autoencoder=1, text=2, denoiser=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    train_shapes(folder / "run", folder / "model", BUDGET)
    return folder


def test_the_folder_is_a_stable_diffusion_model(trained: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from sdstoolkit import load

    pipeline = StableDiffusionPipeline.from_pretrained(trained / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red heart", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    prior = load(str(trained / "model"))
    assert prior.score.shape == (16, 8, 8) and prior.size == (64, 64)
    with pytest.raises(ValueError, match="elephant"):
        prior.condition("a red elephant")
    size = sum(file.stat().st_size for file in (trained / "model").rglob("*") if file.is_file())
    assert size < 24e6


def test_a_finished_run_is_not_run_again(trained: Path) -> None:
    before = load_file(trained / "run" / "denoiser.safetensors")
    train_shapes(trained / "run", trained / "again", BUDGET)
    after = load_file(trained / "run" / "denoiser.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    weights = "unet/diffusion_pytorch_model.safetensors"
    first, second = (load_file(trained / name / weights) for name in ("model", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_model_is_trained_further(trained: Path) -> None:
    further = Budget(drawings=512, denoiser=1)
    histories = train_shapes(trained / "more", trained / "on", further, start=trained / "model")
    assert list(histories) == ["denoiser"]
    for part, same in (("vae", True), ("unet", False)):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        first, second = (load_file(trained / folder / name) for folder in ("model", "on"))
        assert all(torch.equal(first[key], second[key]) for key in first) == same


def test_latents_have_unit_variance(trained: Path) -> None:
    latents = load_file(trained / "run" / "latents.safetensors")["latents"]
    assert latents.shape == (512, 16, 8, 8)
    assert float(latents.std()) == pytest.approx(1.0, abs=1e-4)


def test_every_word_is_one_token_and_others_are_spelt(tmp_path: Path) -> None:
    tokenizer = networks.tokenizer(data.vocabulary(), tmp_path)
    for word in data.vocabulary():
        assert len(tokenizer.tokenize(word)) == 1
    assert len(tokenizer.tokenize("elephant")) > 1
    assert tokenizer.unk_token in tokenizer.tokenize("?")
    assert max(tokenizer.get_vocab().values()) == tokenizer.eos_token_id
    ids = reading.tokens(tokenizer, ["", "a red heart"])
    assert ids.shape == (2, networks.TEXT_LENGTH)


def test_times_crowd_in_the_middle_and_reach_both_ends() -> None:
    u = torch.arange(10_000, dtype=torch.float64) / 10_000
    t = recipe.crowded(u)
    assert (t.diff() > 0).all() and t[0] == 0 and 0.999 < t[-1] < 1
    assert float(((t > 0.1) & (t < 0.65)).double().mean()) == pytest.approx(0.8, abs=1e-3)


def test_lessons_part_the_scenes_and_the_timetable_starts_easy() -> None:
    scenes = data.draw_scenes(512, torch.Generator().manual_seed(0))
    rows = recipe.lessons(scenes)
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(512))
    assert scenes.count[torch.cat(rows[:2])].max() == 1
    assert recipe.timetable(0.0).tolist() == [1, 0, 0, 0]
    assert recipe.timetable(0.115).tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert recipe.timetable(1.0).tolist() == pytest.approx([n / 6.75 for n in (1, 1, 4, 0.75)])


def test_a_reader_is_asked_what_lies_where() -> None:
    """Against where the drawing's objects are, not against the words."""
    scenes = data.draw_scenes(512, torch.Generator().manual_seed(1))
    found = reading.attributes(scenes)
    assert list(found) == list(reading.Reader.sizes)
    for i in range(len(scenes)):
        occupied = [place for place in reading.PLACES if found[f"shape {place}"][i] > 0]
        if scenes.count[i] == 1:
            assert occupied == ["alone"]
            assert found["shape alone"][i] == 1 + scenes.shape[i, 0]
            continue
        across = {"left": 0, "right": 0, "above": 1, "below": 1}[occupied[0]]
        low, high = scenes.centre[i, :, across].argsort().tolist()
        assert occupied == [["left", "right"], ["above", "below"]][across]
        for place, k in zip(occupied, (low, high), strict=True):
            for what, value in vars(scenes[slice(i, i + 1)]).items():
                if what in ("shape", "colour", "size"):
                    assert found[f"{what} {place}"][i] == 1 + value[0, k]


def test_parts_of_a_batch_of_captions_have_the_batch_s_gradient(tmp_path: Path) -> None:
    """Places, whose objects count by themselves, are fuller in some parts than in others."""
    drawn = make_drawings(64, seed=0)
    tokenizer = networks.tokenizer(data.vocabulary(), tmp_path)
    ids = reading.captions(drawn, tokenizer)
    torch.manual_seed(0)
    encoder, pool, grads = networks.text_encoder(tokenizer), networks.denoiser().add_embedding, []
    for accumulate in (1, 16):

        def fit(reader: torch.nn.Module, loss: object, plan: Plan, **rest: object) -> History:
            for _ in share.pieces(rng := torch.Generator().manual_seed(3)):  # noqa: B023
                (loss(0, rng) / share.accumulate).backward()  # noqa: B023
            parts = (reader.text_encoder, reader.pool)
            grads.append(torch.cat([p.grad.flatten() for m in parts for p in m.parameters()]))
            return History()

        torch.manual_seed(1)
        share = Share(accumulate=accumulate)
        share.fit = fit
        plan = Plan(steps=1, lr=1.0)
        reading.train_text_encoder(encoder, pool, drawn, ids, plan, batch=64, share=share)
        encoder.zero_grad()
        pool.zero_grad()
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 1e-5
