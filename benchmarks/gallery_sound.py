"""Rows of the gallery on sound: music transcription (Basic Pitch) and voice activity detection (silero).

All labels are exact by construction: notes are synthesised here with overtones, envelopes and noise, and recorded spoken digits
are placed at known times in background noise. Voice activity is a stream: a file is called once for each chunk of 512 samples of
all recordings together, as silero's own wrapper does it, with 64 samples of the previous chunk before them and the state carried
on. The speakers of the calibration recordings aren't those of the test recordings.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
from scipy.io import wavfile
from scipy.signal import lfilter, resample_poly

from benchmarks.gallery_row import Row, Run
from tests.data import data_file

SEEDS = {"test": 21, "calibration": 22}

MUSIC_RATE, CLIP, HOP, FRAMES = 22_050, 43_844, 256, 172  # hertz, samples of a clip, samples of a frame, frames of a clip
LOWEST, PITCHES = 21, 88  # MIDI number of the first pitch, number of pitches
MUSIC = "serving_default_input_2:0"  # the name of Basic Pitch's input
NOTES = 1  # place of the note posteriorgram among its outputs: onsets, notes, contours
NOTE_THRESHOLD = 0.3
CLIPS = {"test": 48, "calibration": 24}

SPEECH_RATE, CHUNK, CONTEXT = 16_000, 512, 64  # hertz, samples of a chunk, samples of the one before that are given with it
STATE = (2, 128)  # axes of the state other than that of the recordings
CHUNKS = 188  # of a recording of 6 seconds
RECORDINGS = {"test": 40, "calibration": 24}
CALIBRATION_CHUNKS = 256
SPEAKERS = {"test": ("george", "nicolas", "yweweler"), "calibration": ("jackson", "lucas", "theo")}
SILENCE = 10 ** (-30 / 20)  # root mean square below which the edges of a digit are silence, relative to its loudest part


# --- notes


def note(draw: np.random.Generator, pitch: int, samples: int) -> np.ndarray:
    """One note `[samples]` with overtones that fall off, an attack, a decay and a short release, at most 1 in absolute value."""
    time = np.arange(samples) / MUSIC_RATE
    frequency = 440 * 2 ** ((pitch - 69 + draw.normal(0, 0.05)) / 12)
    orders = np.arange(1, min(12, int(MUSIC_RATE / 2 / frequency)) + 1)
    levels = orders ** -draw.uniform(0.7, 2) * draw.uniform(0.3, 1, size=len(orders))
    phases = draw.uniform(0, 2 * np.pi, size=len(orders))
    decays = draw.uniform(0.3, 3) * (1 + 0.2 * orders)
    stretch = orders * np.sqrt(1 + draw.uniform(0, 4e-4) * orders**2)  # strings are slightly inharmonic
    tones = np.sin(2 * np.pi * frequency * np.outer(stretch, time) + phases[:, None]) * np.exp(-np.outer(decays, time))
    envelope = np.minimum(time / draw.uniform(0.004, 0.03), 1) * np.minimum((time[-1] - time) / 0.01, 1)
    sound = (levels @ tones) * envelope
    return sound / np.abs(sound).max()


def clip(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A clip of 1 to 4 voices, `[43844, 1]`, and which pitches sound in which frames, `[172, 88]`."""
    sound, sounding = np.zeros(CLIP), np.zeros((FRAMES, PITCHES), bool)
    for _ in range(draw.integers(1, 5)):
        start, centre = int(draw.uniform(0, 0.4) * MUSIC_RATE), draw.integers(45, 85)
        while start < CLIP - MUSIC_RATE // 8:
            length = min(int(draw.uniform(0.12, 0.8) * MUSIC_RATE), CLIP - start)
            pitch = int(centre + draw.integers(-9, 10))
            sound[start : start + length] += draw.uniform(0.15, 1) * note(draw, pitch, length)
            sounding[round(start / HOP) : round((start + length) / HOP), pitch - LOWEST] = True
            start += length + int(draw.uniform(0, 0.2) * MUSIC_RATE)
    sound *= draw.uniform(0.2, 0.9) / np.abs(sound).max()
    noise = draw.normal(size=CLIP) * np.sqrt(np.square(sound).mean()) * 10 ** (-draw.uniform(0, 30) / 20)
    return (sound + noise).astype(np.float32)[:, None], sounding


@functools.cache
def clips(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Clips `[n, 43844, 1]` and which pitches sound in which frames, `[n, 172, 88]` bool."""
    draw = np.random.default_rng(SEEDS[split])
    sounds, labels = zip(*(clip(draw) for _ in range(CLIPS[split])), strict=True)
    return np.stack(sounds), np.stack(labels)


def note_scores(run: Run) -> np.ndarray:
    """F1 over frames and pitches of each test clip, `[48]`: a pitch sounds where its posterior is at least .3."""
    sounds, sounding = clips("test")
    parts = [run({MUSIC: sounds[at : at + 8]})[NOTES] for at in range(0, len(sounds), 8)]
    found = np.concatenate(parts) >= NOTE_THRESHOLD
    right = (found & sounding).sum((1, 2))
    return 2 * right / (found.sum((1, 2)) + sounding.sum((1, 2)))


# --- speech


@dataclass(frozen=True)
class Recordings:
    """Recordings of spoken digits in noise.

    Attributes:
        chunks: with the end of the chunk before, `[n, chunks, 576]`.
        speech: whether at least half of a chunk is speech, `[n, chunks]`.
    """

    chunks: np.ndarray
    speech: np.ndarray


@functools.cache
def digits(speaker: str) -> tuple[np.ndarray, ...]:
    """The spoken digits of a speaker at 16 kHz, each `[samples]`, without the silence at its ends, and normalised."""
    found = []
    with zipfile.ZipFile(data_file("fsdd_wav.zip")) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".wav") and f"_{speaker}_" in name):
            rate, samples = wavfile.read(io.BytesIO(archive.read(name)))
            sound = resample_poly(samples.astype(np.float64), SPEECH_RATE // rate, 1)
            level = np.sqrt(np.convolve(np.square(sound), np.full(160, 1 / 160), mode="same"))
            loud = np.flatnonzero(level > SILENCE * level.max())
            found.append(sound[loud[0] : loud[-1] + 1] / level.max())
    return tuple(found)


def recording(draw: np.random.Generator, spoken: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Digits of one speaker with pauses in background noise, `[samples]`, and whether a sample is speech, `[samples]`."""
    total = CHUNKS * CHUNK
    sound, speech = np.zeros(total), np.zeros(total, bool)
    start = int(draw.uniform(0.2, 1.2) * SPEECH_RATE)
    while True:
        digit = spoken[draw.integers(len(spoken))]
        if start + len(digit) > total:
            break
        sound[start : start + len(digit)] += draw.uniform(0.5, 1) * digit
        speech[start : start + len(digit)] = True
        start += len(digit) + int(draw.uniform(0.15, 1.2) * SPEECH_RATE)
    noise = np.asarray(lfilter([1], [1, -draw.uniform(0, 0.95)], draw.normal(size=total)))  # from white to low-pass noise
    noise *= 10 ** (-draw.uniform(5, 30) / 20) / noise.std()
    mixed = (sound + noise) * draw.uniform(0.1, 0.9)
    return mixed / max(1, np.abs(mixed).max()), speech


@functools.cache
def recordings(split: str) -> Recordings:
    """The recordings of a split, deterministic; each of its speakers has every third one."""
    draw, speakers = np.random.default_rng(SEEDS[split] + 10), SPEAKERS[split]
    pairs = [recording(draw, digits(speakers[i % len(speakers)])) for i in range(RECORDINGS[split])]
    padded = np.pad(np.stack([sound for sound, _ in pairs]).astype(np.float32), ((0, 0), (CONTEXT, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK, axis=1)[:, ::CHUNK]
    share = np.stack([speech for _, speech in pairs]).reshape(len(pairs), CHUNKS, CHUNK).mean(2)
    return Recordings(np.ascontiguousarray(windows), share >= 0.5)


def streamed(run: Run, chunks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run a file over time.

    Args:
        run: the file; it takes and returns the state as `[2, n, 128]`.
        chunks: with the end of the chunk before, `[n, chunks, 576]`.

    Yields:
        for each chunk the state before it `[2, n, 128]` and the probability of speech in it `[n]`.
    """
    state = np.zeros((STATE[0], len(chunks), STATE[1]), np.float32)
    for at in range(chunks.shape[1]):
        probability, after = run({"input": np.ascontiguousarray(chunks[:, at]), "state": state, "sr": np.array(SPEECH_RATE)})[:2]
        yield state, probability[:, 0]
        state = after


def speech_scores(run: Run) -> np.ndarray:
    """The share of chunks of each test recording with the right decision at a probability of .5, `[40]`."""
    test = recordings("test")
    probabilities = np.stack([probability for _, probability in streamed(run, test.chunks)], axis=1)
    return ((probabilities >= 0.5) == test.speech).mean(1)


@functools.cache
def speech_calibration(file: str) -> dict[str, np.ndarray]:
    """256 chunks of the calibration recordings with the states that the float file has before them.

    As the library takes them, with the examples on the first axis of every array: `input [256, 576]`, `state [256, 2, 128]` and
    `sr [256]`. All are at 16 kHz, so that the layers for 8 kHz of the file that has both get no calibration data.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model(file), options, providers=["CPUExecutionProvider"])
    chunks = recordings("calibration").chunks
    states = np.stack([state for state, _ in streamed(lambda x: session.run(None, dict(x)), chunks)])
    draw = np.random.default_rng(SEEDS["calibration"] + 20)
    who, when = np.divmod(draw.choice(chunks.shape[0] * CHUNKS, CALIBRATION_CHUNKS, replace=False), CHUNKS)
    state = np.ascontiguousarray(states[when, :, who])
    return {"input": chunks[who, when], "state": state, "sr": np.full(CALIBRATION_CHUNKS, SPEECH_RATE, np.int64)}


def speech_example() -> dict[str, np.ndarray]:
    """The inputs of one call at batch 1, as the file takes them: a chunk of a test recording, and a state of zeros."""
    chunk = recordings("test").chunks[:1, CHUNKS // 2]
    return {"input": chunk, "state": np.zeros((STATE[0], 1, STATE[1]), np.float32), "sr": np.array(SPEECH_RATE, np.int64)}


# --- the rows


def model(name: str) -> bytes:
    """The bytes of a float file."""
    return data_file(f"models/{name}.onnx").read_bytes()


def speech_row(name: str, file: str, made_by: str) -> Row:
    """The row of one of silero's files."""
    return Row(
        name=name,
        kind="speech",
        made_by=made_by,
        metric="chunks of 32 ms with the right decision",
        float_file=functools.partial(model, file),
        calibration=functools.partial(speech_calibration, file),
        judge=speech_scores,
        example=speech_example,
    )


ROWS: tuple[Row, ...] = (
    Row(
        name="basic-pitch",
        kind="music",
        made_by="Spotify (basic-pitch 0.4.0), exported by tf2onnx",
        metric="F1 of the notes that sound, over frames",
        float_file=functools.partial(model, "basic_pitch"),
        calibration=lambda: {MUSIC: clips("calibration")[0]},
        judge=note_scores,
        example=lambda: {MUSIC: clips("test")[0][:1]},
    ),
    speech_row("silero-vad", "silero_vad", "Silero (silero-vad 6.2.3), written by spox"),
    speech_row("silero-vad-16k", "silero_vad_16k_op15", "Silero (silero-vad 6.2.3), exported by torch.onnx"),
)
