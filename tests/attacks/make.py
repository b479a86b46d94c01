"""Writes the hostile files of this folder: each breaks one rule of the safetensors format.

    python make.py

The messages that they must earn are in tests/cli/attacks.rs, which also finds a file that is missing there.
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent


def tensor(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def file(header, data=4):
    """A file with this header, which may be JSON's object or its text, and that many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


DEPTH = 10_000
FIELDS = b'"dtype": "F32", "shape": [1], "data_offsets": [0, 4]'

ATTACKS = {
    # The length of the header.
    "empty": b"",
    "seven_bytes": bytes(7),
    "header_of_no_bytes": struct.pack("<Q", 0),
    "header_length_of_all_ones": b"\xff" * 8,
    "header_length_above_the_limit": struct.pack("<Q", 100_000_001) + b"{}",
    "header_length_past_the_end": struct.pack("<Q", 1000) + b"{}",
    # The JSON.
    "header_is_a_list": file(b"[]", 0),
    "header_after_a_space": file(b" {}", 0),
    "header_not_closed": file(b'{"w": {' + FIELDS),
    "header_with_a_tail": file(b"{}x", 0),
    "header_not_utf8": file(b'{"\xff": {' + FIELDS + b"}}"),
    "header_nested_deep": file(b'{"w": ' + b"[" * DEPTH + b"]" * DEPTH + b"}"),
    "metadata_nested_deep": file(b'{"__metadata__": {"a": ' + b'{"a": ' * DEPTH + b"1" + b"}" * DEPTH + b"}}", 0),
    "tensor_twice": file(b'{"w": {' + FIELDS + b'}, "w": {' + FIELDS + b"}}"),
    "field_twice": file(b'{"w": {' + FIELDS + b', "dtype": "F32"}}'),
    "metadata_twice": file(b'{"__metadata__": {}, "__metadata__": {}}', 0),
    "metadata_key_twice": file(b'{"__metadata__": {"a": "1", "a": "2"}}', 0),
    "metadata_of_numbers": file({"__metadata__": {"a": 1}}, 0),
    "metadata_is_a_word": file({"__metadata__": "a"}, 0),
    # A tensor.
    "field_missing": file({"w": {"dtype": "F32", "data_offsets": [0, 4]}}),
    "field_unknown": file({"w": tensor(0, 4) | {"strides": [1]}}),
    "dtype_unknown": file({"w": tensor(0, 4, dtype="F31")}),
    "dtype_is_a_number": file({"w": tensor(0, 4, dtype=32)}),
    "shape_negative": file({"w": tensor(0, 4, [-1])}),
    "shape_of_fractions": file({"w": tensor(0, 4, [1.5])}),
    "shape_past_64_bits": file({"w": tensor(0, 4, [2**64 + 1])}),
    "shape_product_past_64_bits": file({"w": tensor(0, 4, [2**33, 2**33])}),
    "shape_size_past_64_bits": file({"w": tensor(0, 4, [2**62 + 1])}),
    "shape_of_half_a_byte": file({"w": tensor(0, 1, [1], "F4")}, 1),
    "shape_of_other_size": file({"w": tensor(0, 4, [2])}),
    # Where the data lie.
    "offsets_of_three": file(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}'),
    "offsets_negative": file({"w": tensor(-4, 0)}),
    "offsets_backwards": file({"w": tensor(4, 0)}),
    "offsets_past_64_bits": file({"w": tensor(0, 2**64)}),
    "offsets_past_the_end": file({"w": tensor(2**63, 2**63 + 4)}),
    "overlap": file({"v": tensor(0, 8, [2]), "w": tensor(4, 12, [2])}, 12),
    "same_bytes_twice": file({"v": tensor(0, 4), "w": tensor(0, 4)}),
    "hole": file({"v": tensor(0, 4), "w": tensor(8, 12)}, 12),
    "hole_at_the_start": file({"w": tensor(4, 8)}, 8),
    "data_too_short": file({"w": tensor(0, 4)}, 3),
    "data_too_long": file({"w": tensor(0, 4)}, 5),
    "data_without_tensors": file({}, 4),
}

for name, content in ATTACKS.items():
    (HERE / f"{name}.safetensors").write_bytes(content)
