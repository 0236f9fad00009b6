"""Fusions that read and draw: in which order, with which prompts, and that a killed one goes on."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamtune.adapters import AdapterFile, Delta
from dreamtune.adapters.parts import TEXT_ENCODERS
from dreamtune.fusion import FusionOptions, Inputs, Moments, WeightedAdapter, common_layers, fuse_layers, recorded
from dreamtune.models import Base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.run import fuse

Make = Callable[..., Path]
PROMPTS = ("a {token} {class}", "{token} at night")


def run(out: Path, *files: Any, **options: Any) -> AdapterFile:
    settings = {"method": "gradient", "steps": 2, "prompts": PROMPTS, "device": "cpu", **options}
    fuse(FuseConfig(adapters=tuple(map(str, files)), **settings), out, lambda _: None)
    return AdapterFile.load(out)


def deltas(file: AdapterFile) -> dict[str, Delta]:
    return {path: Delta.of_adapter(adapter, torch.empty(0)) for path, adapter in file.adapters().items()}


def kind(path: str) -> str:
    """Which stage a layer is of."""
    if path.startswith(TEXT_ENCODERS):
        return "text"
    return "key or value" if re.search(r"attn2\.to_[kv]$", path) else "pixels"


def only(file: AdapterFile, *kinds: str) -> AdapterFile:
    layers = {path: record for path, record in file.layers.items() if kind(path) in kinds}
    tensors = {name: it for name, it in file.tensors.items() if name.rpartition(".")[0] in layers}
    return replace(file, layers=layers, tensors=tensors)


def modules(base: Base, paths: list[str]) -> dict[str, torch.nn.Module]:
    text: Any = base.text_encoder
    inner = getattr(text, "text_model", text)
    return {
        path: inner.get_submodule(path.partition(".")[2]) if kind(path) == "text" else base.unet.get_submodule(path)
        for path in paths
    }


@pytest.mark.parametrize("stage", ["text", "key or value", "pixels"])
def test_stages_in_the_order_of_mix_of_show(stage: str, make: Make, base: Base, tmp_path: Path) -> None:
    """Each stage of the result follows from what the stages before it made of the base."""
    files = [make("a"), make("bb")]
    fused = run(tmp_path / "out.safetensors", *files)
    ingredients = [WeightedAdapter(path.name, AdapterFile.load(path)) for path in files]
    paths = [path for path in common_layers(ingredients) if kind(path) == stage]
    own = []
    for it in ingredients:
        prompts, moments = [prompt.replace("{token}", it.file.token) for prompt in PROMPTS], Moments()
        prompts = [prompt.replace("{class}", "dog") for prompt in prompts]
        if stage == "text":
            with base.attach(only(it.file, "text")), recorded(modules(base, paths), moments):
                base.condition(prompts)
        elif stage == "key or value":
            with base.attach(only(fused, "text")):
                for condition in base.condition(prompts):
                    for path in paths:
                        moments.add(path, condition.embedding)
        else:
            before, drawing = only(fused, "text", "key or value"), only(it.file, "pixels")
            with base.attach(before), base.attach(drawing), recorded(modules(base, paths), moments):
                for seed, prompt in enumerate(prompts):
                    base.draw([prompt], [seed], size=32, steps=2, guidance=USUAL[base.family].guidance)
        own.append(moments.means())
    expected = dict(fuse_layers(ingredients, FusionOptions("gradient"), inputs=Inputs(own), paths=paths))
    found = deltas(fused)
    for path in paths:
        scale = float(expected[path].dense().abs().max())
        torch.testing.assert_close(found[path].dense(), expected[path].dense(), rtol=1e-3, atol=2e-3 * scale)


def drawn(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[str]:
    """The prompts that are drawn from here on; before that of the number `stop` the process dies."""
    prompts: list[str] = []
    draw = Base.draw

    def counted(self: Base, wanted: Any, *args: Any, **kwargs: Any) -> Any:
        if len(prompts) == stop:
            raise KeyboardInterrupt
        prompts.extend(wanted)
        return draw(self, wanted, *args, **kwargs)

    monkeypatch.setattr(Base, "draw", counted)
    return prompts


def test_a_killed_fusion_goes_on(make: Make, cache: Path, tmp_path: Path) -> None:
    files = [make("a"), make("bb")]
    run(tmp_path / "whole.safetensors", *files)
    out = tmp_path / "out.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        first = drawn(patch, stop=3)
        with pytest.raises(KeyboardInterrupt):
            run(out, *files)
    assert not out.exists()
    assert len(list((cache / "recordings").rglob("*.safetensors"))) == 2  # whole ones, each adapter's last
    with pytest.MonkeyPatch.context() as patch:
        second = drawn(patch)
        run(out, *files)
    assert (first, second) == (["a a dog", "a at night", "a bb dog"], ["bb at night"])
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list((cache / "recordings").rglob("*.safetensors"))


def test_prompts_go_to_the_adapters_that_they_name(make: Make, tmp_path: Path) -> None:
    a, bb, foreign = make("a"), make("bb"), make("ccc", token="")
    texts = tmp_path / "prompts.txt"
    texts.write_text("# places\nbb on the grass\n\nan a in my room\nthe cat\n", encoding="utf-8")
    given = ["fuse", str(a), str(bb), str(foreign), "--method", "gradient", "--steps", "1", "--prompts", str(texts)]
    with pytest.MonkeyPatch.context() as patch:
        prompts = drawn(patch)
        assert main([*given, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert prompts == ["an a in my room", "bb on the grass", "the cat"]


def test_a_fused_file_is_drawn_by_each_of_its_subjects(make: Make, tmp_path: Path) -> None:
    both = tmp_path / "both.safetensors"
    run(both, make("a"), make("bb"), method="sum", prompts=())
    usual = USUAL["pocket"]
    for given, expected in (
        ((), [usual.prompt("a", "dog"), usual.prompt("bb", "dog"), "a a dog on the beach", "a bb dog on the beach"]),
        (("{token} here", "ccc"), ["a here", "bb here"]),
        (("a bb {class}", "ccc"), ["a bb dog"]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            prompts = drawn(patch)
            run(tmp_path / f"{len(given)}{len(expected)}.safetensors", both, make("ccc"), prompts=given, steps=1)
        assert prompts[: len(expected)] == expected


def test_a_new_word_is_read_as_its_adapter_means_it(make: Make, base: Base, tmp_path: Path) -> None:
    plain, word = make("a"), make("bb", words=2)
    first = run(tmp_path / "1.safetensors", plain, word)
    assert torch.equal(
        first.tensors["embedding.text_encoder"], AdapterFile.load(word).tensors["embedding.text_encoder"]
    )
    other = AdapterFile.load(word)
    tensors = {**other.tensors, "embedding.text_encoder": -other.tensors["embedding.text_encoder"]}
    replace(other, tensors=tensors).save(word)
    second, found = deltas(run(tmp_path / "2.safetensors", plain, word)), deltas(first)
    assert all(not torch.equal(second[path].dense(), delta.dense()) for path, delta in found.items())
    assert not base.words


def test_custom_diffusion_sums_what_its_paper_leaves_alone(make: Make, tmp_path: Path) -> None:
    files = [make("a"), make("bb")]
    found = deltas(run(tmp_path / "1.safetensors", *files, method="custom-diffusion"))
    summed = deltas(run(tmp_path / "2.safetensors", *files, method="sum", prompts=()))
    for path, delta in found.items():
        assert torch.allclose(delta.dense(), summed[path].dense(), atol=1e-6) == (kind(path) != "key or value")
    other = deltas(run(tmp_path / "3.safetensors", *files, method="custom-diffusion", captions=("a house",)))
    assert any(not torch.allclose(delta.dense(), found[path].dense(), atol=1e-6) for path, delta in other.items())


def test_balance_of_outputs(make: Make, base: Base, tmp_path: Path) -> None:
    """An adapter that is twenty times as strong comes out as strong as the other, whatever the method."""
    strong = make("bb")
    file = AdapterFile.load(strong)
    replace(file, tensors={n: it * (20 if n.endswith("up") else 1) for n, it in file.tensors.items()}).save(strong)
    out = run(tmp_path / "out.safetensors", make("a"), strong, method="sum", balance="output")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    sizes = []
    for path, prompt in ((tmp_path / "a.safetensors", "a"), (strong, "bb")):
        own = deltas(AdapterFile.load(path))[layer].dense()
        with base.attach(only(out, "text")):
            x = torch.cat([it.embedding for it in base.condition([f"a {prompt} dog", f"{prompt} at night"])])
        # how much of the adapter is in the result: least squares of its own outputs on those of the fusion
        sizes.append(float((x @ own.T).square().mean().sqrt()))
    scale = [(sizes[0] * sizes[1]) ** 0.5 / size for size in sizes]
    expected = sum(
        factor * deltas(AdapterFile.load(path))[layer].dense()
        for factor, path in zip(scale, (tmp_path / "a.safetensors", strong), strict=True)
    )
    torch.testing.assert_close(deltas(out)[layer].dense(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"method": "custom-diffusion"}, {"method": "ties", "balance": "output"}])
def test_one_adapter_alone_needs_nothing_drawn(options: dict[str, Any], make: Make, tmp_path: Path) -> None:
    foreign = make("a", token="")
    with pytest.MonkeyPatch.context() as patch:
        prompts = drawn(patch)
        settings = {"density": 1.0} if options.get("method") == "ties" else {}
        found = deltas(run(tmp_path / "out.safetensors", foreign, f"{make('bb')}:0", prompts=(), **options, **settings))
    assert not prompts
    for path, delta in deltas(AdapterFile.load(foreign)).items():
        torch.testing.assert_close(found[path].dense(), delta.dense(), rtol=1e-6, atol=1e-6)


BAD: list[tuple[Callable[[Make], list[Any]], dict[str, Any], str]] = [
    (lambda make: [make("a"), make("bb", token="")], {"prompts": ()}, "bb.safetensors does not record its token"),
    (
        lambda make: [make("a"), make("bb")],
        {"prompts": ("an a", "the cat")},
        "the prompt 'the cat' contains none of the tokens 'a', 'bb'",
    ),
    (
        lambda make: [make("a"), make("bb")],
        {"prompts": ("an a",)},
        "no prompt names 'bb', the subject of bb.safetensors",
    ),
    (lambda make: [make("a")], {"method": "sum"}, "sum uses no prompts"),
    (lambda make: [make("a")], {"method": "sum", "prompts": (), "captions": ("x",)}, "sum uses no captions"),
    (lambda make: [make("a")], {"captions": ("x",)}, "gradient uses no captions"),
]


@pytest.mark.parametrize("files, options, message", BAD)
def test_bad_input_writes_nothing(
    files: Callable[[Make], list[Any]], options: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    from dreamtune.errors import ConfigError

    given = files(make)
    before = set(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "new" / "out.safetensors", *given, **options)
    assert set(tmp_path.iterdir()) == before


def test_too_little_memory_is_told_with_the_remedy(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamtune.errors import ConfigError

    files = [make("a"), make("bb")]
    monkeypatch.setattr(Base, "draw", lambda *_, **__: torch.empty(2**58))
    with pytest.raises(ConfigError, match="not enough cpu memory to generate with tiny.*close other programs"):
        run(tmp_path / "out.safetensors", *files)
    assert not (tmp_path / "out.safetensors").exists()
