# pyright: reportArgumentType=false
# (the same code writes and reads: a reader gets None in place of values)
"""The skeleton of an ONNX file: the file without the data of its initializers, written so that repetitions compress well.

An ONNX file is a protobuf message; this module reads the few fields that it needs, without the onnx package. `cut_initializers`
removes the bytes of initializers and replaces names by what a reader can infer. A new value has the next name of the writer's own
sequence (a, b, ..., aa, ab, ...). A value that a node reads is named by how recently it was mentioned; an initializer that is
read for the first time is the next one. Operators and attributes that occurred before are a number. So blocks of a network that
repeat also repeat byte by byte. `fill_skeleton` is the inverse.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Field = tuple[int, "int | bytes"]  # key (number << 3 | wire type), value

_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT = 7 << 3 | 2, 1 << 3 | 2, 5 << 3 | 2, 11 << 3 | 2, 12 << 3 | 2
_DIMS, _TYPE, _NAME, _RAW = 1 << 3, 2 << 3, 8 << 3 | 2, 9 << 3 | 2
_READS, _WRITES, _VALUE_NAME = 1 << 3 | 2, 2 << 3 | 2, 1 << 3 | 2
_NEXT, _NONE, _RECENT = 0, 1, 2  # names of values that nodes read: the next initializer, the empty name, 2 + recency
_FIXED = {1: 8, 5: 4}


@dataclass(frozen=True)
class Form:
    """Type (ONNX's number) and shape of an initializer whose data were removed."""

    kind: int
    shape: tuple[int, ...]


def varint(value: int) -> bytes:
    """The bytes of a non-negative integer in protobuf's variable-length encoding.

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Source:
    """Reads bytes from the front; it raises ValueError where they end too early."""

    def __init__(self, content: bytes) -> None:
        """Start at the first byte."""
        self.content, self.at = content, 0

    def number(self) -> int:
        """Read a variable-length integer of at most 64 bits."""
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
        """Read the next `size` bytes."""
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) < size:
            raise ValueError("it ends too soon")
        self.at += size
        return part

    def block(self) -> bytes:
        """Read a length and that many bytes."""
        return self.take(self.number())

    def field(self) -> Field:
        """Read a protobuf field."""
        key = self.number()
        if key & 7 == 0:
            return key, self.number()
        if key & 7 == 2:
            return key, self.block()
        if key & 7 in _FIXED:
            return key, self.take(_FIXED[key & 7])
        raise ValueError(f"wire type {key & 7}")

    def left(self) -> bool:
        """Whether bytes are left."""
        return self.at < len(self.content)


def fields(message: bytes) -> list[Field]:
    """The fields of a protobuf message."""
    source, read = Source(message), []
    while source.left():
        read.append(source.field())
    return read


def message_of(some: Iterable[Field]) -> bytes:
    """The protobuf message of these fields."""
    out = bytearray()
    for key, value in some:
        out += varint(key)
        out += varint(value) if isinstance(value, int) else (varint(len(value)) if key & 7 == 2 else b"") + value
    return bytes(out)


class _Names:
    """The names of values: in the order of their last mention, of initializers that no node has read yet, and of new values."""

    def __init__(self, others: Sequence[Field]) -> None:
        """Start with the graph's inputs; the names of its outputs aren't used for other values."""
        named = [(key, _name(value)) for key, value in others if key in (_INPUT, _OUTPUT) and isinstance(value, bytes)]
        self.mentioned = [name for key, name in named if key == _INPUT]  # the latest is last
        self.unread: list[bytes] = []  # the next is last
        self._sequence = _sequence(frozenset(name for _, name in named))
        self._next = next(self._sequence)

    def define(self, name: bytes) -> bytes:
        """The encoding of a new name: 0 for the next of the sequence, else its length + 1 and the name."""
        if name == self._next:
            self._next = next(self._sequence)
            return varint(0)
        return varint(1 + len(name)) + name

    def decode_definition(self, source: Source) -> bytes:
        """The new name whose encoding `define` returned."""
        size = source.number()
        if size:
            return source.take(size - 1)
        name, self._next = self._next, next(self._sequence)
        return name

    def read(self, name: bytes) -> bytes:
        """The encoding of the name of a value that a node reads."""
        if not name:
            return varint(_NONE)
        if self.unread and name == self.unread[-1]:
            self.mentioned.append(self.unread.pop())
            return varint(_NEXT)
        for back, known in enumerate(itertools.chain(reversed(self.mentioned), reversed(self.unread))):
            if known == name:
                return varint(_RECENT + back) + self._again(back)
        raise ValueError("a value from nowhere")

    def decode_read(self, source: Source) -> bytes:
        """The name whose encoding `read` returned."""
        token = source.number()
        if token == _NONE:
            return b""
        if token == _NEXT:
            self.mentioned.append(self.unread.pop())
        else:
            self._again(token - _RECENT)
        return self.mentioned[-1]

    def _again(self, back: int) -> bytes:
        """Make a value the latest; IndexError where there is none."""
        known = len(self.mentioned)
        self.mentioned.append(self.mentioned.pop(known - 1 - back) if back < known else self.unread.pop(known - 1 - back))
        return b""


def _sequence(used: frozenset[bytes]) -> Iterator[bytes]:
    """a, b, ..., Z, aa, ab, ... without the names in `used`."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            if (name := "".join(letters).encode()) not in used:
                yield name


def _name(message: bytes) -> bytes:
    """The name in a ValueInfoProto, its first field."""
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


def cut_initializers(content: bytes) -> tuple[bytes, list[Form], list[bytes]]:
    """Split an ONNX file into its skeleton and the data of its initializers.

    Returns:
        The skeleton; type and shape of each initializer with raw data; their data, in the same order.

    Raises:
        ValueError: the bytes aren't an ONNX file, or not in the form that protobuf's own writer gives.
    """
    forms: list[Form] = []
    data: list[bytes] = []
    out = bytearray()
    for key, value in fields(content):
        out += varint(key)
        if key == _GRAPH and isinstance(value, bytes):
            out += _cut_graph(fields(value), forms, data)
        else:
            out += message_of([(key, value)])[len(varint(key)) :]
    if not forms:
        raise ValueError("no initializer holds raw data")
    return bytes(out), forms, data


def _cut_graph(graph: list[Field], forms: list[Form], data: list[bytes]) -> bytes:
    """The skeleton of a graph; forms and data of its initializers are appended to the lists."""
    nodes = [value for key, value in graph if key == _NODE and isinstance(value, bytes)]
    tensors = [value for key, value in graph if key == _INITIALIZER and isinstance(value, bytes)]
    others = [field for field in graph if field[0] not in (_NODE, _INITIALIZER)]
    names = _Names(others)
    head = message_of(others)
    out = varint(len(head)) + head + varint(len(tensors))
    for tensor in tensors:
        out += _cut_tensor(tensor, names, forms, data)
    names.unread.reverse()
    out += varint(len(nodes))
    kinds: dict[bytes, int] = {}
    for node in nodes:
        parts = fields(node)
        reads = [value for key, value in parts if key == _READS and isinstance(value, bytes)]
        writes = [value for key, value in parts if key == _WRITES and isinstance(value, bytes)]
        rest = message_of([field for field in parts if field[0] not in (_READS, _WRITES)])
        kind = varint(len(reads)) + varint(len(writes)) + varint(len(rest)) + rest
        out += varint(kinds[kind]) if kind in kinds else varint(0) + kind
        kinds.setdefault(kind, len(kinds) + 1)
        out += b"".join(names.read(name) for name in reads)
        for name in writes:
            out += names.define(name) if name else varint(1)
            names.mentioned.extend([name] if name else [])
    return bytes(out)


def _cut_tensor(tensor: bytes, names: _Names, forms: list[Form], data: list[bytes]) -> bytes:
    """The skeleton of an initializer; its form and data are appended to the lists."""
    parts = fields(tensor)
    name = next((value for key, value in parts if key == _NAME and isinstance(value, bytes)), b"")
    names.unread.append(name)
    dims = [value for key, value in parts if key == _DIMS and isinstance(value, int)]
    size = len(dims) + 3
    if [key for key, _ in parts[:size]] != [*[_DIMS] * len(dims), _TYPE, _NAME, _RAW]:
        return varint(0) + varint(len(tensor)) + tensor
    kind, raw, rest = parts[size - 3][1], parts[size - 1][1], message_of(parts[size:])
    assert isinstance(kind, int) and isinstance(raw, bytes)
    forms.append(Form(kind, tuple(dims)))
    data.append(raw)
    head = varint((size - 2) << 1 | bool(rest)) + varint(kind) + b"".join(map(varint, dims)) + names.define(name)
    return head + (varint(len(rest)) + rest if rest else b"")


@dataclass(frozen=True)
class Skeleton:
    """A parsed skeleton: protobuf fields, with None where the data of the next initializer belong."""

    model: list[Field | list[tuple[int, int | bytes | list[Field | None]]]]
    forms: list[Form]


def parse_skeleton(skeleton: bytes, limit: int) -> Skeleton:
    """Parse a skeleton whose file has at most `limit` bytes.

    Raises:
        ValueError, IndexError: the bytes aren't a skeleton, or its file is longer.
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
    """The fields of a graph; the forms of its initializers are appended to the list."""
    others = fields(source.block())
    names = _Names(others)
    tensors: list = []
    for _ in range(source.number()):
        form = source.number()
        if form:
            kind, dims = source.number(), [source.number() for _ in range((form >> 1) - 1)]
            forms.append(Form(kind, tuple(dims)))
            names.unread.append(names.decode_definition(source))
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
        node = [(_READS, names.decode_read(source)) for _ in range(reads)]
        for _ in range(writes):
            name = names.decode_definition(source)
            names.mentioned.extend([name] if name else [])
            node.append((_WRITES, name))
        nodes.append((_NODE, message_of([*node, *rest])))
        limit -= len(nodes[-1][1])
        if limit < 0:
            raise ValueError("nodes longer than the file")
    return sorted([*nodes, *((_INITIALIZER, tensor) for tensor in tensors), *others], key=lambda field: field[0])


def fill_skeleton(skeleton: Skeleton, data: Iterable[bytes]) -> bytes:
    """The ONNX file of a skeleton and the data of its initializers, in the order of its forms."""
    remaining = iter(data)
    out = []
    for field in skeleton.model:
        if isinstance(field, list):
            graph = []
            for key, value in field:
                if isinstance(value, list):
                    value = message_of((_RAW, next(remaining)) if inner is None else inner for inner in value)
                graph.append((key, value))
            out.append((_GRAPH, message_of(graph)))
        else:
            out.append(field)
    return message_of(out)
