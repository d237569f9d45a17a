from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.coding.skeleton import varint
from dyncompress.deployment import Session, is_sealed, ranges, seal, unseal, write
from dyncompress.deployment.seal import _MARK, LIMIT
from dyncompress.errors import Altered, InvalidRequest
from tests.deployment.graphs import TARGET, encode, images, residual


@pytest.fixture(scope="module")
def body() -> bytes:
    float_file, weights = residual(4)
    return write(float_file, {k: (encode(w), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)


def test_a_sealed_file_is_a_valid_model_with_the_same_outputs(body: bytes) -> None:
    sealed = seal(body, {"statement": "at most 1 % more errors", "delta": 0.05})
    assert np.array_equal(Session(sealed, TARGET).run(images(3))[0], Session(body, TARGET).run(images(3))[0])
    model = onnx.load_from_string(sealed)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == ["dyncompress.seal"]
    assert unseal(sealed) == (body, {"statement": "at most 1 % more errors", "delta": 0.05})
    assert is_sealed(sealed) and not is_sealed(body) and len(sealed) - len(body) < 300


@given(st.data())
def test_any_changed_byte_is_detected(body: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(body, {"statement": "kept"}))
    place = data.draw(st.integers(0, len(sealed) - 1) | st.integers(len(body), len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Altered, InvalidRequest)) as caught:
        unseal(bytes(sealed))
    if place < len(body):
        assert caught.type is Altered


@given(st.data())
def test_cut_or_extended_files_never_pass(body: bytes, data: st.DataObject) -> None:
    sealed = seal(body, {"statement": "kept"})
    with pytest.raises((Altered, InvalidRequest)):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(Altered):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=40)))
    with pytest.raises(Altered):
        unseal(data.draw(st.binary(min_size=1, max_size=40)) + sealed)


def test_another_body_under_a_copied_seal_is_detected(body: bytes) -> None:
    sealed = seal(body, {})
    other = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(Altered, match="digest"):
        unseal(other + sealed[len(body) :])


def test_invalid_seals_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="already"):
        seal(seal(body, {}), {})
    with pytest.raises(InvalidRequest, match="itself"):
        seal(body, {"sha256": "x"})
    with pytest.raises(InvalidRequest, match=str(LIMIT)):
        seal(body, {"statement": "x" * LIMIT})
    with pytest.raises(InvalidRequest, match="no seal"):
        unseal(body)


def test_the_seal_needs_neither_onnx_nor_torch_and_a_session_no_onnx() -> None:
    code = (
        "import sys; from dyncompress.deployment import seal, unseal; assert unseal(seal(b'body', {}))[0] == b'body';"
        "assert not {'onnx', 'torch', 'onnxruntime'} & set(sys.modules);"
        "from dyncompress.deployment import Session, environment; environment();"
        "assert not {'onnx', 'torch', 'onnx_ir'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def with_text(sealed: bytes, old: bytes, new: bytes) -> bytes:
    """A sealed file with another text in its seal; lengths are corrected, digests aren't."""
    body, _ = unseal(sealed)
    text = sealed[sealed.index(b"{", len(body)) :]
    assert old in text
    changed = text.replace(old, new, 1)
    pair = _MARK + varint(len(changed)) + changed
    return body + bytes([14 << 3 | 2]) + varint(len(pair)) + pair


def test_a_seal_with_duplicate_keys_or_infinite_numbers_is_refused(body: bytes) -> None:
    sealed = seal(body, {"statement": "kept", "delta": 0.5})
    assert with_text(sealed, b"kept", b"kept") == sealed
    with pytest.raises(Altered, match="the key 'statement' twice"):
        unseal(with_text(sealed, b'"statement"', b'"statement":"It is perfect.","statement"'))
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        with pytest.raises(Altered, match=f"the number {number.decode()}, and only finite"):
            unseal(with_text(sealed, b'"delta":0.5', b'"delta":' + number))


def test_what_isnt_json_is_never_sealed(body: bytes) -> None:
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(InvalidRequest, match="isn't JSON"):
            seal(body, {"delta": value})
