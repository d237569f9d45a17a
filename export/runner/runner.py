"""Check, show and time a dyncompress file on a device that has only numpy and onnxruntime.

    python runner.py small.onnx                      show certificate and seal, and the latency on random inputs
    python runner.py small.onnx --inputs x.npz       the same on given inputs; with --outputs FILE the outputs are compared
    python runner.py small.onnx --inputs x.npz --write-outputs y.npz    write the outputs, for comparison on another device
    python runner.py small.onnx --json               print JSON
    python runner.py small.dync [--unpack FILE]      unpack a container in memory (and into a file), then the same

Exit codes (as of the command line): 0 done, 2 usage, unreadable input or a file that can't be written, 5 file altered, 6 outputs
differ, 70 an error of this program (DYNCOMPRESS_TRACEBACK=1 in the environment shows where), 71 not enough memory, 74 the answer
can't be written to standard output, 130 interrupted.
This is a single file, for Python 3.9 and newer, that needs nothing of dyncompress: copy it beside the model, and for containers
also `unpack.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import math
import os
import platform
import re
import sys
import time
import traceback
import zipfile
from pathlib import Path
from typing import NoReturn

try:
    import numpy as np
    import onnxruntime
except ImportError as missing:
    if __name__ != "__main__":
        raise
    print(f"error: numpy and onnxruntime are needed ({missing}): python -m pip install numpy onnxruntime", file=sys.stderr)
    sys.exit(2)

DONE, UNREADABLE, ALTERED, DIFFERS = 0, 2, 5, 6
BUG, MEMORY, NO_ANSWER, INTERRUPTED = 70, 71, 74, 130
CONTAINER = b"DYNC"  # the first bytes of a container
KEY = b"dyncompress.seal"
MARK = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12"  # key and tag of the value in a StringStringEntryProto
TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


class Stop(Exception):  # noqa: N818
    """Ends the program with an exit code and a message."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def varint(value: int) -> bytes:
    """An integer as a protobuf varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def dict_of_unique_keys(pairs: list) -> dict:
    """The dict of a JSON object without duplicate keys, which different readers would read differently.

    Raises:
        Stop: with code 5 if a key occurs twice.
    """
    keys = [key for key, _ in pairs]
    duplicate = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if duplicate is not None:
        raise Stop(ALTERED, f"the seal holds the key '{duplicate}' twice: the file was changed.")
    return dict(pairs)


def finite(number: str) -> float:
    """The value of a number in the seal.

    Raises:
        Stop: with code 5 if it is NaN or infinite.
    """
    if not math.isfinite(float(number)):
        raise Stop(ALTERED, f"the seal holds the number {number}, and only finite numbers are sealed: the file was changed.")
    return float(number)


def promises_nothing(entry: dict) -> bool:
    """Whether the sealed certificate's bound is 1 or more; no loss exceeds 1, so such a bound holds for every file."""
    bound = re.search(r"at most (\d+\.\d+)", str(entry.get("statement", "")))
    return bound is not None and float(bound.group(1)) >= 1


def read_seal(content: bytes) -> dict | None:
    """Check the seal of a file and return its entry; None if there is no seal.

    Raises:
        Stop: with code 5 if the body or the entry was changed, or bytes were added or removed.
    """
    mark = content.find(MARK)
    if mark < 0:
        return None
    position, length, shift = mark + len(MARK), 0, 0
    while position < len(content) and shift < 28:
        byte = content[position]
        length |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            break
    text = content[position : position + length]
    try:
        entry = json.loads(text, object_pairs_hook=dict_of_unique_keys, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise Stop(ALTERED, "the seal can't be read: the file was changed or cut off.") from error
    pair = MARK + varint(len(text)) + text
    size = entry.get("length") if isinstance(entry, dict) else None
    if not isinstance(size, int) or not 0 <= size < mark or content[size:] != bytes([14 << 3 | 2]) + varint(len(pair)) + pair:
        raise Stop(ALTERED, "the file doesn't end with exactly its seal: it was changed or something was appended.")
    if hashlib.sha256(content[:size]).hexdigest() != entry.get("sha256"):
        raise Stop(ALTERED, "the file's digest isn't the sealed one: it was changed.")
    rest = {key: value for key, value in entry.items() if key != "entry_sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if hashlib.sha256(canonical).hexdigest() != entry.get("entry_sha256"):
        raise Stop(ALTERED, "the statement in the seal isn't the one that was sealed.")
    return {key: value for key, value in rest.items() if key not in ("length", "sha256")}


def unpack(packed: bytes, path: str) -> bytes:
    """Unpack a container into its ONNX file by the `unpack.py` beside this file.

    Raises:
        Stop: with code 5 if the container was cut off or changed, 2 if it can't be read here.
    """
    spec = importlib.util.spec_from_file_location("dyncompress_unpack", Path(__file__).with_name("unpack.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the decorator `dataclass` looks its module up here
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise Stop(UNREADABLE, f"{path} is a container: copy unpack.py beside {Path(__file__).name}.") from error
    try:
        return module.unpack(packed)
    except module.Altered as error:
        raise Stop(ALTERED, str(error)) from error
    except module.InvalidRequest as error:
        raise Stop(UNREADABLE, str(error)) from error


def write_whole(path: str, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        Stop: with code 2 if it can't be written.
    """
    part, place = Path(path + ".part"), Path(path)
    try:
        if place.is_dir() or (place.exists() and not place.is_file()):
            raise Stop(UNREADABLE, f"{path} is a directory, a device or a pipe; name an ordinary file.")
        part.write_bytes(content)
        part.replace(path)
    except (OSError, ValueError) as error:
        raise Stop(UNREADABLE, f"{path} can't be written: {reason(error)}.") from error
    finally:
        if os.path.isfile(part):
            part.unlink()


def read_file(path: str) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        Stop: with code 2 if there is none.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise Stop(UNREADABLE, f"{path} is a directory, a device or a pipe; name an ordinary file.")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise Stop(UNREADABLE, f"{path} can't be read: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """The message of an exception, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split()).removesuffix(".")


def refuse_overwriting(options: argparse.Namespace) -> None:
    """Check that no file that is read would be overwritten.

    Raises:
        Stop: with code 2 if one would.
    """
    for out in filter(None, (options.unpack, options.write_outputs)):
        for given in filter(None, (options.model, options.inputs, options.outputs)):
            if os.path.exists(out) and os.path.exists(given) and os.path.samefile(out, given):
                raise Stop(UNREADABLE, f"{out} is {given}, which is read; name another file to write.")
    if options.unpack and options.unpack == options.write_outputs:
        raise Stop(UNREADABLE, f"--unpack and --write-outputs both name {options.unpack}; name two files.")


def load(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Load a file into a session on the CPU, whose threads don't spin while they wait.

    Raises:
        Stop: with code 2 if onnxruntime can't load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base but this one
        raise Stop(UNREADABLE, f"onnxruntime {onnxruntime.__version__} can't load the file: {reason(error)}.") from error


def random_inputs(session: onnxruntime.InferenceSession, batch: int) -> dict[str, np.ndarray]:
    """Random inputs of the declared shapes: normally distributed floats, zeros of other types; axes of free length get 16.

    Raises:
        Stop: with code 2 if an input has another type.
    """
    generator = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        if value.type not in TYPES:
            raise Stop(UNREADABLE, f"input '{value.name}' is a {value.type}; give it by --inputs FILE.npz.")
        sizes = [n if isinstance(n, int) else (batch if axis == 0 else 16) for axis, n in enumerate(value.shape)]
        kind = np.dtype(TYPES[value.type])
        inputs[value.name] = generator.standard_normal(sizes).astype(kind) if kind.kind == "f" else np.zeros(sizes, kind)
    return inputs


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
        Stop: with code 2 if it isn't one, or declares more than this machine's memory.
    """
    content = read_file(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            declared = sum(member.file_size for member in archive.infolist())
        if declared > max(1040 * len(content), 1 << 16) or declared > machine_bytes():  # deflate expands a byte to at most 1032
            raise Stop(UNREADABLE, f"{path} declares {declared:,} bytes, more than it can hold or this machine has.")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Stop:
        raise
    except MemoryError as error:  # numpy allocates what a header declares before it reads the data
        raise Stop(UNREADABLE, f"{path} declares arrays that are larger than this machine's memory.") from error
    except Exception as error:  # zipfile, zlib, lzma and numpy each raise classes of their own
        raise Stop(UNREADABLE, f"{path} can't be read as .npz: {reason(error)}.") from error


def given_inputs(session: onnxruntime.InferenceSession, path: str) -> dict[str, np.ndarray]:
    """The inputs of a file from an .npz file, by name; its other keys, such as labels, aren't used.

    Raises:
        Stop: with code 2 if an input is missing.
    """
    arrays = load_arrays(path)
    names = [value.name for value in session.get_inputs()]
    if len(names) == 1 and names[0] not in arrays and "x" in arrays:
        arrays[names[0]] = arrays["x"]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise Stop(UNREADABLE, f"{path} lacks the inputs {missing}; it has {sorted(arrays)}.")
    return {name: arrays[name] for name in names}


def run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the file once.

    Raises:
        Stop: with code 2 if the inputs don't fit.
    """
    try:
        return [np.asarray(out) for out in session.run(None, inputs)]
    except Exception as error:  # onnxruntime's own classes share no base but this one
        shapes = {name: (str(array.dtype), array.shape) for name, array in inputs.items()}
        raise Stop(UNREADABLE, f"the file doesn't run on inputs {shapes}: {reason(error)}.") from error


def compare(outputs: list[np.ndarray], names: list[str], path: str, tolerance: float) -> dict[str, float]:
    """Compare the outputs with those stored in an .npz file.

    Returns:
        Output name -> largest difference, relative to the range of the stored output; outputs that aren't stored are left out.

    Raises:
        Stop: with code 6 if a difference exceeds the tolerance or shapes differ, 2 if the file can't be compared.
    """
    stored = load_arrays(path)
    differences = {}
    for name, out in zip(names, outputs):
        if name not in stored:
            continue
        if stored[name].dtype.kind not in "fiub":
            raise Stop(UNREADABLE, f"{path}: '{name}' holds {stored[name].dtype}; numbers are needed.")
        if stored[name].shape != out.shape:
            raise Stop(DIFFERS, f"output '{name}' has shape {out.shape}, {path} has {stored[name].shape}.")
        expected = stored[name].astype(np.float64)
        gap = np.abs(out.astype(np.float64) - expected)
        differences[name] = float(gap.max() / max(np.ptp(expected), 1e-12)) if gap.size else 0.0
        if not differences[name] <= tolerance:  # also catches nan
            raise Stop(DIFFERS, f"output '{name}' differs by {differences[name]:.3g} of its range, more than {tolerance:g}.")
    if not differences:
        raise Stop(UNREADABLE, f"{path} holds none of the outputs {names}.")
    return differences


def latency(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], runs: int) -> dict[str, float]:
    """Minimum and percentiles of the seconds of a run, after three warm-up runs."""
    for _ in range(3):
        run(session, inputs)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - start)
    names = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}
    return {"min": min(seconds)} | {name: float(np.percentile(seconds, at)) for name, at in names.items()}


def write_outputs(path: str, names: list[str], outputs: list[np.ndarray]) -> None:
    """Write the outputs under their names to an .npz file that `--outputs` can read."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # numpy.savez would take some names for options
        for name, array in zip(names, outputs):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    write_whole(path, stream.getvalue())


def machine_bytes() -> int:
    """The machine's memory in bytes; a number above every file's size if the system doesn't know it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def memory_bytes() -> int:
    """Peak resident memory of this process in bytes; 0 if the system doesn't know it."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        return 0
    return 0


def report(options: argparse.Namespace) -> dict:
    """Check, run and time the file; return everything that is shown."""
    refuse_overwriting(options)
    shipped = read_file(options.model)
    content = unpack(shipped, options.model) if shipped.startswith(CONTAINER) else shipped
    entry = read_seal(content)
    if options.require_seal and entry is None:
        raise Stop(ALTERED, f"{options.model} carries no seal.")
    if options.unpack:
        write_whole(options.unpack, content)
    session = load(content, options.threads)
    inputs = given_inputs(session, options.inputs) if options.inputs else random_inputs(session, options.batch)
    outputs = run(session, inputs)
    names = [value.name for value in session.get_outputs()]
    result: dict = {
        "model": options.model,
        "bytes": len(shipped),
        "unpacked_bytes": len(content),
        "sealed": entry is not None,
        "certificate": entry or {},
        "vacuous": promises_nothing(entry or {}),
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "machine": platform.machine(),
        "threads": options.threads,
        "inputs": {name: [str(array.dtype), *array.shape] for name, array in inputs.items()},
        "outputs": {name: [str(array.dtype), *array.shape] for name, array in zip(names, outputs)},
    }
    if options.outputs:
        result["differences"] = compare(outputs, names, options.outputs, options.tolerance)
    if options.write_outputs:
        write_outputs(options.write_outputs, names, outputs)
        result["written"] = options.write_outputs
    result["seconds"] = latency(session, inputs, options.runs)
    result["peak_memory_bytes"] = memory_bytes()
    return result


def show(result: dict) -> None:
    """Print the result of `report` as text."""
    seal = "seal intact" if result["sealed"] else "no seal: this file was never certified"
    packed = f" ({result['unpacked_bytes']:,} unpacked)" if result["unpacked_bytes"] != result["bytes"] else ""
    print(f"{result['model']}: {result['bytes']:,} bytes{packed}, {seal}")
    for key, value in result["certificate"].items():
        print(f"  {key}: {value}")
    if result["vacuous"]:
        print("  WARNING: this certificate promises nothing. Its bound is vacuous: it is 1 or more, which holds for every file.")
    seconds = result["seconds"]
    times = ", ".join(f"{name} {1e3 * value:.3f} ms" for name, value in seconds.items())
    print(f"{result['runtime']} on {result['machine']}, {result['threads']} thread(s): {times}")
    if "differences" in result:
        print(
            "outputs agree: " + ", ".join(f"{name} within {gap:.2g} of its range" for name, gap in result["differences"].items())
        )
    if "written" in result:
        print(f"outputs written: {result['written']}")
    print(f"peak memory {result['peak_memory_bytes'] / 2**20:.0f} MiB")


def positive(text: str) -> int:
    """An integer of at least 1, from the command line."""
    value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and an integer from 1 to 999999999 is needed")
    return value


def share(text: str) -> float:
    """A finite number of at least 0, from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and a number of at least 0 is needed")
    return value


def refuse(message: str) -> NoReturn:
    """Handle a usage error of argparse like all other errors."""
    raise Stop(UNREADABLE, f"{message}; see --help.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    asked_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        options = parse(arguments)
        result = report(options)
    except Stop as stop:
        return stopped(stop.code, str(stop), asked_json)
    except MemoryError:
        return stopped(MEMORY, "there is not enough memory; give fewer examples.", asked_json)
    except KeyboardInterrupt:
        return stopped(INTERRUPTED, "interrupted.", asked_json)
    except Exception as error:  # a bug of this program ends with one sentence, too
        if os.environ.get("DYNCOMPRESS_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        kind = f"this is an error of the runner itself: {type(error).__name__} ({reason(error)})"
        return stopped(BUG, f"{kind}; please report it with the output of DYNCOMPRESS_TRACEBACK=1.", asked_json)
    try:
        if options.json:
            print(json.dumps(result))
        else:
            show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError) as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return stopped(NO_ANSWER, f"the answer can't be written to standard output: {reason(error)}.", asked_json)
    return DONE


def stopped(code: int, sentence: str, as_json: bool) -> int:
    """Print why the run ended and return the exit code."""
    if sys.stderr is not None:
        print(json.dumps({"error": sentence, "code": code}) if as_json else f"error: {sentence}", file=sys.stderr)
    return code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        Stop: with code 2 if it is wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("model", help="the .onnx file, or a container (.dync)")
    parser.add_argument("--inputs", help=".npz with one array for each input (or `x` for the only one)")
    parser.add_argument("--outputs", help=".npz with one array for each output to compare with (needs --inputs)")
    parser.add_argument("--tolerance", type=share, default=0.05, help="largest difference, as a share of an output's range")
    parser.add_argument("--batch", type=positive, default=1, help="examples in random inputs")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--runs", type=positive, default=50)
    parser.add_argument("--require-seal", action="store_true", help="exit with 5 if there is no seal")
    parser.add_argument("--unpack", metavar="FILE", help="write the checked .onnx file, e.g. from a container")
    parser.add_argument(
        "--write-outputs", metavar="FILE", help="write the outputs to an .npz, one array for each output (needs --inputs)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for name in ("outputs", "write_outputs"):
        if getattr(options, name) and not options.inputs:
            parser.error(f"--{name.replace('_', '-')} needs --inputs: outputs on random inputs can't be compared")
    return options


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal's encoding may lack characters of the statement
    sys.exit(main())
