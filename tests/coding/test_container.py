from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from dyncompress.coding import description_bits, is_packed, pack, unpack
from dyncompress.coding.container import MAGIC, VERSION
from dyncompress.coding.skeleton import cut_initializers, fill_skeleton, parse_skeleton, varint
from dyncompress.deployment import ranges, seal, write
from dyncompress.errors import Altered, InvalidRequest
from tests.deployment.graphs import TARGET, encode, images, residual

ROOT = Path(__file__).resolve().parents[2]


def body_of(bits: int) -> bytes:
    float_file, weights = residual(4)
    return write(float_file, {k: (encode(w, bits), "as_is") for k, w in weights.items()}, ranges(float_file, [images(4)]), TARGET)


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal(body_of(8), {"statement": "At most 1 % more errors."})


@pytest.fixture(scope="module")
def packed(sealed: bytes) -> bytes:
    return pack(sealed)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_files_of_every_width_come_back_to_the_byte_and_are_smaller(bits: int) -> None:
    body = body_of(bits)
    packed = pack(body)
    assert is_packed(packed) and not is_packed(body)
    assert unpack(packed) == body and len(packed) < len(body)
    assert description_bits(body) == 8 * len(packed)


def test_a_sealed_file_comes_back_sealed(sealed: bytes, packed: bytes) -> None:
    assert unpack(packed) == sealed


@pytest.mark.parametrize(
    "text",
    [
        '<ir_version: 10, opset_import: ["" : 21]> g (float[n] x) => (float[n] y) { y = Relu(x) }',
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }',
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] long_name, float[2] b) => (float[2] y) '
        "<float[2] w = {1, 2}, int64 unused = {3}> { t = Add(w, long_name)  u = Clip(t, , w)  y, z = TopK(u, w) }",
    ],
)
def test_graphs_of_other_writers_come_back(text: str) -> None:
    model = onnx.parser.parse_model(text)
    for raw in (False, True):
        for tensor in model.graph.initializer:
            if raw:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
                tensor.doc_string = "after the data"
        content = model.SerializeToString()
        assert unpack(pack(content)) == content


def test_a_file_in_another_order_of_fields_comes_back(sealed: bytes) -> None:
    body = body_of(8)
    model = onnx.ModelProto.FromString(body)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    content = varint(7 << 3 | 2) + varint(len(graph)) + graph + model.SerializeToString()  # the graph before the version
    assert unpack(pack(content)) == content
    swapped = bytearray(content)  # a length in a longer form than necessary, which is valid protobuf
    at = content.index(graph)
    swapped[at - 1] |= 128
    swapped.insert(at, 0)
    assert onnx.ModelProto.FromString(bytes(swapped)).graph == onnx.ModelProto.FromString(body).graph
    assert unpack(pack(bytes(swapped))) == bytes(swapped)


def test_blocks_that_repeat_cost_a_skeleton_next_to_nothing() -> None:
    def chain(length: int) -> bytes:
        nodes = [onnx.helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(length)]
        zeros = [onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), f"w{i}") for i in range(length)]
        value = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in ("v0", f"v{length}")]
        graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], zeros)
        from dyncompress.deployment.shorten import shorten

        return shorten(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])).SerializeToString()

    assert len(pack(chain(60))) < len(pack(chain(20))) + 60


def test_what_is_no_container_is_refused(sealed: bytes) -> None:
    for foreign in (b"", b"DYN", b"PK\x03\x04", sealed):
        with pytest.raises(InvalidRequest, match="no dyncompress container"):
            unpack(foreign)
    for foreign in (b"", b"junk", bytes(range(256)), b"\x08\x0a"):
        with pytest.raises(InvalidRequest, match="no ONNX file"):
            pack(foreign)


def test_containers_aren_t_packed_twice(packed: bytes) -> None:
    with pytest.raises(InvalidRequest, match="a container already"):
        pack(packed)


def test_another_version_is_named(packed: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"version {VERSION + 1}, this program reads {VERSION}"):
        unpack(MAGIC + bytes([VERSION + 1]) + packed[5:])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_every_altered_or_cut_container_is_refused(packed: bytes, seed: int) -> None:
    """Changed bits, cuts, insertions and overwritten bytes in all parts raise one of the two errors, never another."""
    rng = np.random.default_rng(seed)
    for trial in range(60):
        at = 5 + trial if seed == 0 else int(rng.integers(4, len(packed)))
        changed = bytearray(packed)
        kind = int(rng.integers(4))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed = changed[:at]
        elif kind == 2:
            changed[at:at] = rng.bytes(int(rng.integers(1, 5)))
        else:
            changed[at : at + 3] = b"\xff\x00\x80"
        if bytes(changed) == packed:
            continue
        with pytest.raises((Altered, InvalidRequest), match=r"changed|cut|declare"):
            unpack(bytes(changed))


def test_appended_bytes_are_found(packed: bytes) -> None:
    for more in (b"\0", b"\0\0\0", b"x"):
        with pytest.raises(Altered):
            unpack(packed + more)


def forged(skeleton: bytes, length: int, *, method: int = 0, size: int | None = None) -> bytes:
    """A container with arbitrary declared sizes and an empty stream."""
    size = len(skeleton) if size is None else size
    head = MAGIC + bytes([VERSION]) + bytes(16) + varint(length) + bytes([method, 0])
    return head + varint(size) + varint(len(skeleton)) + skeleton + varint(5) + (1 << 24).to_bytes(5, "little")


@pytest.mark.parametrize("what", ["length", "shape", "rows of nothing", "skeleton", "nodes", "limit"])
def test_declared_sizes_take_no_memory(what: str) -> None:
    graph = lambda tensors, nodes=b"\0": varint(7 << 3 | 2) + b"\0" + varint(len(tensors)) + b"".join(tensors) + nodes  # noqa: E731
    tensor = lambda *dims: varint((len(dims) + 1) << 1) + b"\x03" + b"".join(map(varint, dims)) + b"\0"  # noqa: E731
    node = varint(0) + b"\0\0" + varint(2000) + b"\x1a" + varint(1997) + bytes(1997)
    bomb = {
        "length": forged(b"", 1 << 40),
        "shape": forged(graph([tensor(1 << 20, 1 << 20)]), 60_000),
        "rows of nothing": forged(graph([tensor(1 << 40, 0)]), 60_000),
        "skeleton": forged(bytes(100), 60_000, method=1, size=1 << 30),
        "nodes": forged(graph([], varint(1 << 50) + node + b"\x01" * 30_000), 60_000, size=None),
        "limit": forged(b"", 60_000),
    }[what]
    tracemalloc.start()
    try:
        with pytest.raises((Altered, InvalidRequest)):
            unpack(bomb, limit=1000 if what == "limit" else 1 << 31)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_shrinks_too_well_is_filled_up_and_still_comes_back() -> None:
    zeros = onnx.numpy_helper.from_array(np.zeros((1500, 1000), np.int8), "w")
    value = [onnx.helper.make_tensor_value_info(name, 3, [1500, 1000]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [zeros])
    content = onnx.helper.make_model(graph).SerializeToString()
    packed = pack(content)
    assert unpack(packed) == content and len(packed) >= (len(content) - (1 << 16)) / 1024
    with pytest.raises(Altered):
        unpack(packed + b"\0")


def test_the_skeleton_alone_comes_back(sealed: bytes) -> None:
    skeleton, forms, data = cut_initializers(sealed)
    frame = parse_skeleton(skeleton, len(sealed))
    assert frame.forms == forms and fill_skeleton(frame, data) == sealed
    assert len(skeleton) + sum(map(len, data)) < len(sealed)


def test_unpacking_needs_numpy_alone(packed: bytes, sealed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "small.dync"
    path.write_bytes(packed)
    blocked = ("torch", "torch_pruning", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy", "rich", "ml_dtypes")
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import hashlib, pathlib
from dyncompress.coding import unpack
print(hashlib.sha256(unpack(pathlib.Path({str(path)!r}).read_bytes())).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == hashlib.sha256(sealed).hexdigest(), done.stderr
