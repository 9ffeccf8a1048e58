"""Texts by a pretrained encoder: a tiny BERT, made here and saved, stands in for any text model of the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim import text_encoder
from worldsim.conditioning import Vocabulary
from worldsim.config import compose
from worldsim.episode import Conditioning, Episode
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.targets import ConfigError
from worldsim.text_encoder import TextEncoding, fit_encoding
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder
from worldsim.types import StoreInfo

MakeWorld = Callable[..., WorldModel]
TEXTS = ["a wet road", "a dry road", "a long and winding road", ""]
SIZE = 24


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "and", "dry", "long", "road", "wet", "winding"])}
    tokenizers: Any = import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def forget() -> None:
    """Let every test load what it reads."""
    text_encoder._embed.cache_clear()
    text_encoder._LOADED.clear()


# ---------------------------------------------------------------- embedding


def test_the_embedding_is_the_models_own_pooled_and_standardised(bert: Path) -> None:
    transformers = import_module("transformers")
    model, tokenizer = transformers.AutoModel.from_pretrained(bert), transformers.AutoTokenizer.from_pretrained(bert)
    with torch.no_grad():
        hidden = model(**tokenizer("a wet road", return_tensors="pt")).last_hidden_state[0]
    for pooling, pooled in (("mean", hidden.mean(0)), ("first", hidden[0])):
        encoding = fit_encoding(str(bert), TEXTS, pooling=pooling)
        assert encoding.size == SIZE
        torch.testing.assert_close(encoding.embed("a wet road") * encoding.scale + torch.tensor(encoding.center), pooled)


def test_embeddings_of_the_training_texts_have_mean_0_and_deviation_1(bert: Path) -> None:
    encoding = fit_encoding(str(bert), TEXTS * 3)
    rows = torch.stack([encoding.embed(text) for text in TEXTS[:3]])
    torch.testing.assert_close(rows.mean(0), torch.zeros(SIZE), atol=1e-5, rtol=0)
    assert float(rows.square().mean()) == pytest.approx(1, rel=1e-4)
    alone = fit_encoding(str(bert), ["a wet road"])
    assert alone.embed("a wet road").abs().max() < 1e-4
    assert torch.isfinite(alone.embed("a dry road")).all()


def test_a_text_is_always_the_same_other_texts_are_others_and_none_is_too_long(bert: Path) -> None:
    encoding = fit_encoding(str(bert), TEXTS)
    first = encoding.embed("a wet road").clone()
    text_encoder._embed.cache_clear()
    assert torch.equal(encoding.embed("a wet road"), first)
    assert not torch.equal(encoding.embed("a dry road"), first)
    assert encoding.embed("road " * 400).shape == (SIZE,)


def test_an_encoder_is_loaded_once_and_a_text_is_read_once(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = fit_encoding(str(bert), TEXTS)
    assert len(text_encoder._LOADED) == 1
    monkeypatch.setattr(text_encoder, "import_module", lambda *_: pytest.fail("loaded again"))
    encoding.embed("a new winding road")
    loaded = text_encoder._open(str(bert), encoding.revision)
    monkeypatch.setattr(loaded.model, "forward", lambda **_: pytest.fail("read again"))
    encoding.embed("a new winding road")


def test_loading_draws_nothing_from_anyone_s_stream(bert: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    fit_encoding(str(bert), TEXTS)
    assert torch.equal(torch.rand(2), expected)


# ---------------------------------------------------------------- features


def test_features_hold_the_embedding_in_place_of_words(bert: Path) -> None:
    encoding = fit_encoding(str(bert), TEXTS)
    vocabulary = Vocabulary(tags=("dark",), numbers={"red": (0.5, 0.2)}, text=encoding)
    told = vocabulary.features(Conditioning(("dark",), {"red": 0.7}, "a wet road"))
    assert told.shape == (vocabulary.size,) == (len(vocabulary.columns()),)
    torch.testing.assert_close(told[1 : 1 + SIZE], encoding.embed("a wet road"))
    assert told[-1] == 1
    silent = vocabulary.features(Conditioning(("dark",)))
    assert (silent[1 : 1 + SIZE] == 0).all()
    assert silent[-1] == 0
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_dropping_and_thinning_blank_a_text_as_a_whole(bert: Path) -> None:
    vocabulary = Vocabulary(tags=("dark", "wet"), numbers={"red": (0.5, 0.2)}, text=fit_encoding(str(bert), TEXTS))
    told = vocabulary.features(Conditioning(("dark", "wet"), {"red": 0.7}, "a wet road")).repeat(400, 1)
    for rows in (
        vocabulary.drop(told, torch.Generator().manual_seed(0), rate=0.3),
        vocabulary.thin(told, torch.Generator().manual_seed(0)),
    ):
        assert rows.shape == told.shape
        text = rows[:, 2 : 2 + SIZE]
        whole, none = (text == told[:, 2 : 2 + SIZE]).all(1), (text == 0).all(1)
        assert (whole ^ none).all()
        assert torch.equal(rows[:, -1] == 1, whole)
        assert 40 < int(none.sum()) < 360


# ---------------------------------------------------------------- worlds


class Store:
    """Four short episodes of random frames, each with a text."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        space = spaces.Box(-1, 1, (2,), np.float32)
        self.info = StoreInfo("toy", (16, 16), 25.0, space, ("speed",), {"id": "toy"}, "f" * 64, "CC0-1.0")
        self.episodes = [
            Episode(
                frames=random.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8),
                actions=random.uniform(-1, 1, (8, 2)).astype(np.float32),
                rewards=np.zeros(8, np.float32),
                terminated=np.zeros(8, bool),
                truncated=np.zeros(8, bool),
                state=random.normal(size=(9, 1)).astype(np.float32),
                conditioning=Conditioning(("dark",), {}, TEXTS[i]),
            )
            for i in range(4)
        ]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def split(self, name: str) -> list[int]:
        return [0, 1, 2] if name == "train" else [3]


def build(folder: Path, *overrides: str) -> WorldBuilder:
    small = ["model.width=32", "model.depth=2", "model.heads=2", "model.temporal_every=2", "model.window=4", "clip=6", "batch_size=4"]
    torch.manual_seed(0)
    tokenizer = FrameAutoencoder(frame_size=(16, 16), latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    cfg = compose("train_dynamics", [*small, "context_frames=4", "contexts=3", *overrides])
    return WorldBuilder(Store(), tokenizer.eval(), cfg, folder)


def made(world: WorldModel, text: str) -> torch.Tensor:
    simulator = Simulator(world)
    context = replace(world.contexts[0], conditioning=Conditioning(text=text))
    return simulator.step(simulator.start([context], [0]), np.zeros((1, 2), np.float32))[1].latents


def test_a_world_is_trained_with_an_encoder_saved_and_told_things_in_new_words(bert: Path, tmp_path: Path) -> None:
    builder = build(tmp_path, f"text_encoder={{name: {bert}}}")
    text = builder.spec.vocabulary.text
    assert text is not None
    assert builder.spec.vocabulary.words == ()
    assert (text.encoder, text.pooling, text.revision[:7]) == (str(bert), "mean", "sha256:")
    for parameter in builder.dynamics.parameters():
        torch.nn.init.normal_(parameter, std=0.08) if parameter.ndim > 1 else None
    builder.world().save_pretrained(tmp_path / "world")
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert world.spec.vocabulary == builder.spec.vocabulary
    assert torch.equal(made(world, "a dry and winding road"), made(world, "a dry and winding road"))
    assert not torch.equal(made(world, "a dry and winding road"), made(world, "a wet road"))
    grown = build(tmp_path / "on", f"init={tmp_path / 'world'}").spec.vocabulary
    assert grown == world.spec.vocabulary
    again = build(tmp_path / "again", f"init={tmp_path / 'world'}", f"text_encoder={{name: {bert}}}").spec.vocabulary
    assert again == world.spec.vocabulary
    with pytest.raises(ValueError, match=r"which knows the text encoder .*, pooling 'mean': set it to null"):
        build(tmp_path / "other", f"init={tmp_path / 'world'}", f"text_encoder={{name: {bert}, pooling: first}}")


def test_a_world_of_words_goes_on_with_words(bert: Path, tmp_path: Path) -> None:
    build(tmp_path).world().save_pretrained(tmp_path / "world")
    assert "text" not in json.loads((tmp_path / "world" / "world.json").read_text())["vocabulary"]
    with pytest.raises(ValueError, match="which knows single words: set it to null"):
        build(tmp_path / "on", f"init={tmp_path / 'world'}", f"text_encoder={{name: {bert}}}")


# ---------------------------------------------------------------- errors


def encoding(name: str, revision: str = "") -> TextEncoding:
    return TextEncoding(name, revision, "mean", (0.0,) * SIZE, 1.0)


def test_a_missing_package_is_one_sentence_and_only_for_texts(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(text_encoder, "import_module", missing)
    spec = replace(make_world().spec, vocabulary=Vocabulary(tags=("dark",), text=encoding("acme/reader")))
    spec.save(tmp_path)
    known = WorldSpec.load(tmp_path).vocabulary
    assert known.features(Conditioning(("dark",))).sum() == 2
    with pytest.raises(ValueError, match=r"^text encoder 'acme/reader' needs transformers: run pip install 'worldsim-gym\[text\]'"):
        known.features(Conditioning(text="a wet road"))


def test_files_that_changed_are_noticed(bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bert"
    shutil.copytree(bert, copy)
    fitted = fit_encoding(str(copy), TEXTS)
    assert fitted.revision == fit_encoding(str(bert), TEXTS).revision
    text_encoder._LOADED.clear()
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="is not the one that the world was trained with: its files have changed"):
        fitted.embed("a road of another kind")


def test_what_is_no_encoder_is_refused(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded: name a folder or Hub model of transformers with safetensors weights"):
        fit_encoding(str(tmp_path), TEXTS)
    with pytest.raises(ValueError, match="pooling='max' is unknown: use 'mean' or 'first'"):
        fit_encoding(str(bert), TEXTS, pooling="max")
    with pytest.raises(ValueError, match="has nothing to read: no episode of the dataset has a text; set text_encoder=null"):
        fit_encoding(str(bert), ["", " "])


@pytest.mark.parametrize("wrong", ["bert", "{pooling: mean}", "{name: bert, layers: 2}"])
def test_settings_of_the_encoder_are_checked(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be null, or \{name: a Hub id or folder\}"):
        build(tmp_path, f"text_encoder={wrong}")
