"""Oasis: rollouts with and without a cache, its actions, its weights on disk, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file, save_model

from worldsim.contexts import Context
from worldsim.model import WorldModel
from worldsim.oasis import (
    NAME,
    OasisDiT,
    OasisRollout,
    OasisSimulator,
    OasisVAE,
    OasisWorld,
    action_row,
    action_space,
    find_weights,
    from_oasis,
    from_pretrained,
)
from worldsim.oasis.loading import FILES
from worldsim.oasis.rollout import Cache
from worldsim.spaces import to_features
from worldsim.spec import Sampling

torch.set_num_threads(1)
FRAME_SIZE = (8, 16)
WINDOW = 4
Frames = NDArray[np.uint8]


def build(*, depth: int = 2, seed: int = 0) -> OasisWorld:
    """Build a tiny world whose every weight is random."""
    torch.manual_seed(seed)
    dit = OasisDiT(channels=4, width=16, depth=depth, heads=1)
    vae = OasisVAE(frame_size=FRAME_SIZE, channels=4, patch=4, width=16, encoder_depth=1, decoder_depth=1, heads=1)
    for parameter in [*dit.parameters(), *vae.parameters()]:
        torch.nn.init.normal_(parameter, std=0.25) if parameter.ndim > 1 else None
    world = OasisWorld(dit, vae).eval().requires_grad_(False)
    world.spec = dataclasses.replace(world.spec, window=WINDOW)
    return world


@pytest.fixture(scope="module")
def world() -> OasisWorld:
    return build()


def pictures(count: int = 2) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (count, *FRAME_SIZE, 3), dtype=np.uint8)


def drive(rollout: OasisRollout, steps: int) -> torch.Tensor:
    """Return the latents of frames made under a fixed stream of actions."""
    space = action_space()
    space.seed(0)
    return torch.stack([rollout.step_latents(space.sample()) for _ in range(steps)])


def start(world: OasisWorld, *, seed: int = 0, cache: Cache = "stream", frames: Frames | None = None) -> OasisRollout:
    return OasisRollout(world, pictures() if frames is None else frames, seed=seed, steps=3, cache=cache)


# Rollouts


def test_a_step_gives_a_frame(world: OasisWorld) -> None:
    rollout = OasisRollout(world, pictures()[0], steps=2)
    frame = rollout.step(action_row("forward"))
    assert frame.shape == (*FRAME_SIZE, 3)
    assert frame.dtype == np.uint8
    assert rollout.position == 2
    assert OasisRollout(world, pictures()).steps == 10


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(world: OasisWorld) -> None:
    assert torch.equal(drive(start(world, seed=3), 6), drive(start(world, seed=3), 6))
    assert not torch.allclose(drive(start(world, seed=3), 1), drive(start(world, seed=4), 1))


def test_the_action_shows_in_the_frame_it_leads_to(world: OasisWorld) -> None:
    still, moved = (start(world).step_latents(action) for action in (action_row(), action_row("forward")))
    assert not torch.allclose(still, moved)


def test_actions_between_prompt_frames_count(world: OasisWorld) -> None:
    told = OasisRollout(world, pictures(), actions=action_row("jump")[None], steps=3)
    assert not torch.allclose(drive(told, 1), drive(start(world), 1))


@pytest.mark.parametrize("cache", ["window", "off"])
def test_streaming_equals_a_recomputed_window_until_it_slides(world: OasisWorld, cache: Cache) -> None:
    streamed, recomputed = drive(start(world), 5), drive(start(world, cache=cache), 5)
    before = WINDOW - 2
    assert torch.allclose(streamed[:before], recomputed[:before], atol=1e-4)
    assert not torch.allclose(streamed[before:], recomputed[before:], atol=1e-4)


def test_a_window_computed_once_a_frame_equals_one_computed_in_every_step(world: OasisWorld) -> None:
    assert torch.allclose(drive(start(world, cache="window"), 8), drive(start(world, cache="off"), 8), atol=1e-4)


def test_streaming_one_block_equals_a_recomputed_window_for_ever() -> None:
    shallow = build(depth=1)
    assert torch.allclose(drive(start(shallow), 12), drive(start(shallow, cache="off"), 12), atol=1e-4)


@pytest.mark.parametrize("cache", ["stream", "window", "off"])
def test_only_the_newest_frames_of_a_long_prompt_count(world: OasisWorld, cache: Cache) -> None:
    long, rows = pictures(7), np.stack([action_row("left") for _ in range(6)])
    other = long.copy()
    other[: -(WINDOW - 1)] = 0
    one, two = (OasisRollout(world, frames, actions=rows, steps=3, cache=cache) for frames in (long, other))
    assert one.latents.shape[0] == WINDOW - 1
    assert torch.equal(drive(one, 2), drive(two, 2))


@pytest.mark.parametrize("cache", ["stream", "window", "off"])
def test_a_clone_goes_on_by_itself(world: OasisWorld, cache: Cache) -> None:
    rollout = start(world, cache=cache)
    drive(rollout, 3)
    clone, third = rollout.clone(), rollout.clone()
    third.step(action_row("attack"))
    assert torch.equal(drive(rollout, 4), drive(clone, 4))


def test_a_long_rollout_stays_finite_and_as_large_as_it_was(world: OasisWorld) -> None:
    rollout = start(world)
    latents = drive(rollout, 100)
    assert torch.isfinite(latents).all()
    assert rollout.latents.shape[0] == WINDOW - 1
    assert rollout.position == 102


def test_values_that_are_not_finite_are_one_sentence_and_change_nothing() -> None:
    broken = build()
    rollout, twin = start(broken), start(broken)
    good = broken.dit.final_layer.linear.bias.clone()
    broken.dit.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite at frame 2"):
        rollout.step(action_row())
    broken.dit.final_layer.linear.bias.copy_(good)
    assert torch.equal(drive(rollout, 3), drive(twin, 3))


@pytest.mark.parametrize(
    ("frames", "told", "said"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), {}, "frames of 8x8.*makes 8x16: resize"),
        (np.zeros((2, *FRAME_SIZE, 3), np.float32), {}, "must be uint8"),
        (np.zeros((0, *FRAME_SIZE, 3), np.uint8), {}, "F >= 1"),
        (pictures(), {"actions": np.zeros((2, 25), np.float32)}, "one action between two frames"),
        (pictures(), {"actions": np.full((1, 25), 7, np.float32)}, "action column 0"),
        (pictures(), {"cache": "all"}, "cache='all' is unknown.*stream"),
        (pictures(), {"steps": 0}, "steps=0 must be 1 to 1000"),
        (pictures(), {"seed": -1}, "seed=-1 must be 0 or more"),
    ],
)
def test_a_wrong_start_is_one_sentence(world: OasisWorld, frames: Frames, told: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OasisRollout(world, frames, **told)  # type: ignore[arg-type]


# Rows


def test_rows_of_the_simulator_are_rollouts_of_their_own(world: OasisWorld) -> None:
    simulator = OasisSimulator(world, sampling=Sampling(steps=3))
    rest = np.zeros((1, 25), np.float32)
    state, labels = simulator.begin([Context(pictures(), rest), Context(pictures(1), rest[:0])], [0, 5])
    assert labels.shape == (2, 0)
    alone = [start(world), OasisRollout(world, pictures(1), seed=5, steps=3)]
    space = action_space()
    space.seed(1)
    for _ in range(6):
        actions = np.stack([space.sample(), space.sample()])
        before = [tensor.clone() for tensor in (state.keys, state.history)]
        after, made = simulator.step_tensors(state, torch.from_numpy(to_features(space, actions)))
        assert all(torch.equal(a, b) for a, b in zip(before, (state.keys, state.history), strict=True)), "a state is a value"
        state = after
        for row, rollout in enumerate(alone):
            assert torch.allclose(made.latents[row], rollout.step_latents(actions[row]), atol=1e-5)
        assert made.frames.shape == (2, *FRAME_SIZE, 3)
        assert made.finite.all()
        assert not made.end.any()
    assert state.position.tolist() == [8, 7]
    assert [sorted(row) for row in state.remembered.tolist()] == [[4, 5, 6, 7], [3, 4, 5, 6]]


def test_a_row_of_the_simulator_forks_and_takes_another_place(world: OasisWorld) -> None:
    simulator = OasisSimulator(world, sampling=Sampling(steps=2))
    context = Context(pictures(1), np.zeros((0, 25), np.float32))
    state, _ = simulator.begin([context, context], [0, 1])
    still = torch.from_numpy(to_features(action_space(), np.stack([action_row()] * 2)))
    state = state.put([1], state.take([0]))
    _, made = simulator.step_tensors(state, still, decode=False)
    assert torch.equal(made.latents[0], made.latents[1])
    assert made.frames.shape == (2, 0, 0, 3)
    with pytest.raises(ValueError, match="steps=1001"):
        OasisSimulator(world, sampling=Sampling(steps=1001))


# Actions


def test_wrong_actions_are_one_sentence(world: OasisWorld) -> None:
    with pytest.raises(ValueError, match="'jmp' is unknown: did you mean 'jump'"):
        action_row("jmp")
    with pytest.raises(ValueError, match="'cameraX' is unknown"):
        action_row("cameraX")
    with pytest.raises(ValueError, match=r"column 16 \(cameraY\) is 1.5, outside \[-1, 1\]"):
        action_row(camera=(0, 1.5))
    rollout = start(world)
    with pytest.raises(ValueError, match=r"shape \(25,\), got \(24,\)"):
        rollout.step(np.zeros(24, np.float32))
    bad = action_row()
    bad[17] = np.nan
    with pytest.raises(ValueError, match=r"column 17 \(jump\) is nan"):
        rollout.step(bad)


# Weights


@pytest.fixture(scope="module")
def files(world: OasisWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the world as two files, as safetensors writes modules whose tensors are shared."""
    folder = tmp_path_factory.mktemp("oasis")
    paths = folder / FILES[0], folder / FILES[1]
    save_model(world.dit, str(paths[0]))
    save_model(world.vae, str(paths[1]))
    return paths


def load(files: tuple[Path, Path], **told: object) -> OasisWorld:
    return from_oasis(*files, **{"frame_size": FRAME_SIZE, "head_dim": 16, **told})  # type: ignore[arg-type]


def altered(files: tuple[Path, Path], folder: Path, change: dict[str, torch.Tensor | None]) -> tuple[Path, Path]:
    """Return the files with tensors of the first replaced, or left out where None."""
    tensors: dict[str, torch.Tensor | None] = {**load_file(files[0]), **change}
    path = folder / "altered.safetensors"
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
    return path, files[1]


def test_a_world_loaded_from_its_files_is_the_same(world: OasisWorld, files: tuple[Path, Path]) -> None:
    loaded = load(files)
    loaded.spec = world.spec
    assert torch.equal(drive(start(loaded), 2), drive(start(world), 2))
    assert len(loaded.fingerprint) == 64
    assert loaded.spec.name == NAME
    assert loaded.spec.to_json()["window"] == WINDOW


def test_the_world_model_loads_it_too(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        WorldModel.from_oasis(tmp_path / "absent.safetensors", files[1])
    monkeypatch.setattr("worldsim.oasis.from_oasis", lambda *paths, **_: load(paths))
    assert isinstance(WorldModel.from_oasis(*files), OasisWorld)


@pytest.mark.parametrize("kept", ["all", "one", "none"])
def test_rotary_frequencies_may_be_shared_or_missing(world: OasisWorld, files: tuple[Path, Path], tmp_path: Path, kept: str) -> None:
    names = [name for name in world.dit.state_dict() if name.endswith("freqs")]
    last = {"blocks.1.s_attn.rotary_emb.freqs", "blocks.1.t_attn.rotary_emb.freqs"}
    change = {name: world.dit.state_dict()[name].clone() if kept == "all" or (kept == "one" and name in last) else None for name in names}
    loaded = load(altered(files, tmp_path, change))
    assert all(torch.equal(value, world.dit.state_dict()[name]) for name, value in loaded.dit.state_dict().items())


def test_frequencies_of_the_file_are_those_that_are_used(world: OasisWorld, files: tuple[Path, Path], tmp_path: Path) -> None:
    tripled = {name: value * 3 for name, value in load_file(files[0]).items() if name.endswith("freqs")}
    assert len(tripled) == 2, "one for space, one for time"
    changed = load(altered(files, tmp_path, dict(tripled)))
    assert torch.equal(changed.dit.blocks[1].t_attn.rotary_emb.freqs, world.dit.temporal_rotary_emb.freqs * 3)
    changed.spec = world.spec
    assert not torch.allclose(drive(start(changed), 1), drive(start(world), 1))


def test_half_precision_weights_and_worlds(world: OasisWorld, files: tuple[Path, Path]) -> None:
    half = load(files, dtype=torch.bfloat16)
    half.spec = world.spec
    assert (half.dit.dtype, half.dit.spatial_rotary_emb.freqs.dtype) == (torch.bfloat16, torch.float32)
    made = drive(start(half), 1)
    assert made.dtype == torch.float32
    assert torch.isfinite(made).all()


def test_wrong_files_are_one_sentence(files: tuple[Path, Path], tmp_path: Path) -> None:
    dit, vae = files
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(dit.read_bytes()[:5000])
    pickled = tmp_path / "oasis500m.pt"
    pickled.write_bytes(b"")
    nan: dict[str, torch.Tensor | None] = {"blocks.0.t_attn.to_qkv.weight": torch.full((48, 16), float("nan"))}
    for wrong, said in [
        ((tmp_path / "no.safetensors", vae), "no.safetensors is not there"),
        ((pickled, vae), "pickled weights can run code"),
        ((cut, vae), "truncated or damaged"),
        ((vae, dit), "no Oasis denoiser.*the order is"),
        (altered(files, tmp_path, nan), "to_qkv.weight has values that are not finite"),
    ]:
        with pytest.raises(ValueError, match=said):
            load(wrong)
    for change, said in [
        ({"external_cond.weight": None}, "no tensor 'external_cond.weight'"),
        ({"final_layer.linear.bias": None}, r"final_layer\.linear\.bias should be \(16,\), is absent"),
        ({"external_cond.weight": torch.zeros(16, 9)}, "takes 9 action numbers"),
        ({"x_embedder.proj.weight": torch.zeros(16, 3, 2, 2)}, "final_layer.linear.weight should be"),
    ]:
        with pytest.raises(ValueError, match=said):
            load(altered(files, tmp_path, change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"frame_size=\(8, 15\) must be multiples of the patch of 4"):
        load(files, frame_size=(8, 15))
    with pytest.raises(ValueError, match="takes latents of 4 channels in patches of 2"):
        load(files, frame_size=(12, 16))
    with pytest.raises(ValueError, match="head_dim=12 must be a multiple of 8"):
        load(files, head_dim=12)
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        load(files, device="gpu")


def test_absent_weights_are_one_sentence_that_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=f"oasis500m.safetensors and vit-l-20.safetensors not found in {tmp_path}.*accept the terms.*hf download"
    ):
        find_weights(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"world 'oasis-500m'.*not found in the Hub's cache"):
        from_pretrained()


def test_present_weights_are_found(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights(files[0].parent) == files
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _, file: str(files[0].parent / file))
    assert find_weights() == files


# Environments


def test_it_runs_as_an_environment(world: OasisWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsim.oasis.from_pretrained", lambda **_: world)
    env = gym.make("WorldSim-v0", world=NAME, context={"frames": pictures(1)})
    first, _ = env.reset(seed=0)
    assert np.array_equal(first, pictures(1)[0])
    env.action_space.seed(0)
    seen, reward, *_ = env.step(env.action_space.sample())
    assert seen.shape == (*FRAME_SIZE, 3)
    assert reward == 0.0
    assert not np.array_equal(seen, first)


def test_an_environment_without_its_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    from_pretrained.cache_clear()
    with pytest.raises(ValueError, match="hf download"):
        gym.make("WorldSim-v0", world=NAME)
