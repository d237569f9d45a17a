# pyright: reportArgumentType=false
# (one model writes and reads: a reader is given nothing)
"""An ONNX file without the data of its initializers, written so that a general compressor sees what repeats.

An ONNX file is a protobuf message; this reads the few fields it needs, without the onnx package. `cut` takes the bytes of
initializers out and replaces names by what a reader knows: a new value has the next name of the writer's own sequence
(a, b, ..., aa, ab, ...), a value that is read is named by how recently it was mentioned, an initializer that is read for the
first time is the next one, and what nodes repeat (operator, attributes) is a number. Blocks of a network that repeat then
repeat byte by byte. `filled` is the inverse.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Field = tuple[int, int | bytes]  # key (number << 3 | wire type), value

_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7 << 3 | 2, 1 << 3 | 2, 5 << 3 | 2, 11 << 3 | 2, 12 << 3 | 2
_DIMS, _TYPE, _NAME, _RAW = 1 << 3, 2 << 3, 8 << 3 | 2, 9 << 3 | 2
_READS, _WRITES, _VALUE_NAME = 1 << 3 | 2, 2 << 3 | 2, 1 << 3 | 2
_NEXT, _NONE, _RECENT = 0, 1, 2  # how a value that is read is named: the next initializer, the empty name, 2 + recency
_FIXED = {1: 8, 5: 4}


@dataclass(frozen=True)
class Form:
    """Type (ONNX's number) and shape of an initializer whose data were cut out."""

    kind: int
    shape: tuple[int, ...]


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Source:
    """Bytes that are read from the front; ValueError where they end too soon."""

    def __init__(self, content: bytes) -> None:
        """Start at the first byte."""
        self.content, self.at = content, 0

    def number(self) -> int:
        """A varint of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) < size:
            raise ValueError("it ends too soon")
        self.at += size
        return part

    def block(self) -> bytes:
        """A length and as many bytes."""
        return self.take(self.number())

    def field(self) -> Field:
        """A protobuf field."""
        key = self.number()
        if key & 7 == 0:
            return key, self.number()
        if key & 7 == 2:
            return key, self.block()
        if key & 7 in _FIXED:
            return key, self.take(_FIXED[key & 7])
        raise ValueError(f"wire type {key & 7}")

    def left(self) -> bool:
        """Whether there is more."""
        return self.at < len(self.content)


def fields(message: bytes) -> list[Field]:
    """The fields of a protobuf message."""
    source, found = Source(message), []
    while source.left():
        found.append(source.field())
    return found


def written(some: Iterable[Field]) -> bytes:
    """A protobuf message of these fields."""
    out = bytearray()
    for key, value in some:
        out += varint(key)
        out += varint(value) if isinstance(value, int) else (varint(len(value)) if key & 7 == 2 else b"") + value
    return bytes(out)


class _Names:
    """Values in the order of their last mention, initializers that no node has read yet, and the sequence of new names."""

    def __init__(self, others: Sequence[Field]) -> None:
        """Start with the graph's inputs, which are known; its outputs' names are taken."""
        named = [(key, _name(value)) for key, value in others if key in (_INPUT, _OUTPUT) and isinstance(value, bytes)]
        self.mentioned = [name for key, name in named if key == _INPUT]  # the latest last
        self.unread: list[bytes] = []  # the next last
        self._sequence = _sequence(frozenset(name for _, name in named))
        self._next = next(self._sequence)

    def define(self, name: bytes) -> bytes:
        """How a new name is written: 0 for the next of the sequence, else its length + 1 and itself."""
        if name == self._next:
            self._next = next(self._sequence)
            return varint(0)
        return varint(1 + len(name)) + name

    def defined(self, source: Source) -> bytes:
        """The new name that `define` wrote."""
        size = source.number()
        if size:
            return source.take(size - 1)
        name, self._next = self._next, next(self._sequence)
        return name

    def read(self, name: bytes) -> bytes:
        """How the name of a value that a node reads is written."""
        if not name:
            return varint(_NONE)
        if self.unread and name == self.unread[-1]:
            self.mentioned.append(self.unread.pop())
            return varint(_NEXT)
        for back, known in enumerate(itertools.chain(reversed(self.mentioned), reversed(self.unread))):
            if known == name:
                return varint(_RECENT + back) + self._again(back)
        raise ValueError("a value from nowhere")

    def was_read(self, source: Source) -> bytes:
        """The name that `read` wrote."""
        token = source.number()
        if token == _NONE:
            return b""
        if token == _NEXT:
            self.mentioned.append(self.unread.pop())
        else:
            self._again(token - _RECENT)
        return self.mentioned[-1]

    def _again(self, back: int) -> bytes:
        """Bring a value to the front; IndexError where there is none."""
        known = len(self.mentioned)
        self.mentioned.append(self.mentioned.pop(known - 1 - back) if back < known else self.unread.pop(known - 1 - back))
        return b""


def _sequence(taken: frozenset[bytes]) -> Iterator[bytes]:
    """a, b, ..., Z, aa, ab, ... without those that are taken."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if (name := "".join(letters).encode()) not in taken:
                yield name


def _name(message: bytes) -> bytes:
    """The first field of a ValueInfoProto."""
    key, value = Source(message).field()
    if key != _VALUE_NAME or not isinstance(value, bytes):
        raise ValueError("a value without a name")
    return value


def is_model(content: bytes) -> bool:
    """Whether the bytes are a protobuf message with a graph."""
    try:
        return any(key == _GRAPH for key, _ in fields(content))
    except (ValueError, IndexError):
        return False


def cut(content: bytes) -> tuple[bytes, list[Form], list[bytes]]:
    """An ONNX file as (skeleton, forms of its initializers with raw data, their data).

    Raises:
        ValueError: it isn't an ONNX file, or not one as protobuf's own writer writes it.
    """
    forms: list[Form] = []
    data: list[bytes] = []
    out = bytearray()
    for key, value in fields(content):
        out += varint(key)
        if key == _GRAPH and isinstance(value, bytes):
            out += _cut_graph(fields(value), forms, data)
        else:
            out += written([(key, value)])[len(varint(key)) :]
    if not forms:
        raise ValueError("no initializer holds raw data")
    return bytes(out), forms, data


def _cut_graph(graph: list[Field], forms: list[Form], data: list[bytes]) -> bytes:
    nodes = [value for key, value in graph if key == _NODE and isinstance(value, bytes)]
    tensors = [value for key, value in graph if key == _INITIALIZER and isinstance(value, bytes)]
    others = [field for field in graph if field[0] not in (_NODE, _INITIALIZER)]
    names = _Names(others)
    head = written(others)
    out = varint(len(head)) + head + varint(len(tensors))
    for tensor in tensors:
        out += _cut_tensor(tensor, names, forms, data)
    names.unread.reverse()
    out += varint(len(nodes))
    kinds: dict[bytes, int] = {}
    for node in nodes:
        found = fields(node)
        reads = [value for key, value in found if key == _READS and isinstance(value, bytes)]
        writes = [value for key, value in found if key == _WRITES and isinstance(value, bytes)]
        rest = written([field for field in found if field[0] not in (_READS, _WRITES)])
        kind = varint(len(reads)) + varint(len(writes)) + varint(len(rest)) + rest
        out += varint(kinds[kind]) if kind in kinds else varint(0) + kind
        kinds.setdefault(kind, len(kinds) + 1)
        out += b"".join(names.read(name) for name in reads)
        for name in writes:
            out += names.define(name) if name else varint(1)
            names.mentioned.extend([name] if name else [])
    return bytes(out)


def _cut_tensor(tensor: bytes, names: _Names, forms: list[Form], data: list[bytes]) -> bytes:
    found = fields(tensor)
    name = next((value for key, value in found if key == _NAME and isinstance(value, bytes)), b"")
    names.unread.append(name)
    dims = [value for key, value in found if key == _DIMS and isinstance(value, int)]
    size = len(dims) + 3
    if [key for key, _ in found[:size]] != [*[_DIMS] * len(dims), _TYPE, _NAME, _RAW]:
        return varint(0) + varint(len(tensor)) + tensor
    kind, raw, rest = found[size - 3][1], found[size - 1][1], written(found[size:])
    assert isinstance(kind, int) and isinstance(raw, bytes)
    forms.append(Form(kind, tuple(dims)))
    data.append(raw)
    head = varint((size - 2) << 1 | bool(rest)) + varint(kind) + b"".join(map(varint, dims)) + names.define(name)
    return head + (varint(len(rest)) + rest if rest else b"")


@dataclass(frozen=True)
class Skeleton:
    """What `cut` wrote, read: protobuf fields, None where the data of the next initializer belong."""

    model: list[Field | list[Field | list[Field | None]]]
    forms: list[Form]


def opened(skeleton: bytes, limit: int) -> Skeleton:
    """Read a skeleton whose file has at most `limit` bytes.

    Raises:
        ValueError, IndexError: it isn't one, or its file is longer.
    """
    source, model, forms = Source(skeleton), [], []
    while source.left():
        at = source.at
        if source.number() == _GRAPH:
            model.append(_graph(source, forms, limit))
        else:
            source.at = at
            model.append(source.field())
    return Skeleton(model, forms)


def _graph(source: Source, forms: list[Form], limit: int) -> list:
    others = fields(source.block())
    names = _Names(others)
    tensors: list = []
    for _ in range(source.number()):
        form = source.number()
        if form:
            kind, dims = source.number(), [source.number() for _ in range((form >> 1) - 1)]
            forms.append(Form(kind, tuple(dims)))
            names.unread.append(names.defined(source))
            rest = fields(source.block()) if form & 1 else []
            tensors.append([*((_DIMS, size) for size in dims), (_TYPE, kind), (_NAME, names.unread[-1]), None, *rest])
        else:
            tensors.append(fields(source.block()))
            names.unread.append(next((value for key, value in tensors[-1] if key == _NAME), b""))
    names.unread.reverse()
    nodes, kinds = [], []
    for _ in range(source.number()):
        known = source.number()
        if not known:
            kinds.append((source.number(), source.number(), fields(source.block())))
        reads, writes, rest = kinds[known - 1]
        node = [(_READS, names.was_read(source)) for _ in range(reads)]
        for _ in range(writes):
            name = names.defined(source)
            names.mentioned.extend([name] if name else [])
            node.append((_WRITES, name))
        nodes.append((_NODE, written([*node, *rest])))
        limit -= len(nodes[-1][1])
        if limit < 0:
            raise ValueError("nodes longer than the file")
    return sorted([*nodes, *((_INITIALIZER, tensor) for tensor in tensors), *others], key=lambda field: field[0])


def filled(skeleton: Skeleton, data: Iterable[bytes]) -> bytes:
    """The ONNX file of a skeleton and its initializers' data, in the order of its forms."""
    left = iter(data)
    out = []
    for field in skeleton.model:
        if isinstance(field, list):
            graph = []
            for key, value in field:
                if isinstance(value, list):
                    value = written((_RAW, next(left)) if inner is None else inner for inner in value)
                graph.append((key, value))
            out.append((_GRAPH, written(graph)))
        else:
            out.append(field)
    return written(out)
