"""Writes the hostile files of this folder: each breaks one rule of the safetensors format. Those in `checkpoint` are sound
safetensors files, and each breaks one rule of a checkpoint or of PyTorch's state_dict(). Those in `formats` are for an
optimizer with state in 8 bits.

    python make.py

The messages that they must earn are in tests/cli/attacks.rs, tests/checkpoint/attacks.rs and tests/checkpoint/formats.rs,
which also find a file that is missing there.
"""

import json
import struct
import zlib
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

# --- checkpoints ----------------------------------------------------------------------------------

SETTINGS = {
    "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_root": 0.0, "epsilon": "outside", "weight_decay": 0.0,
    "decay": "l2", "amsgrad": False, "amsgrad_over": "raw", "nesterov": False, "maximize": False,
}
GROUP = {"settings": SETTINGS, "tensors": ["w"]}
METADATA = {
    "format": "wgpu-optim-checkpoint", "version": "1", "rule": "adam", "groups": [GROUP], "steps": {"w": 3}, "frozen": [],
    "extras": {},
}
SLOTS = {"state.w.exp_avg": 2, "state.w.exp_avg_sq": 2}


def tensors(elements, dtype="F32", width=4):
    """The entries of a header for names with numbers of elements, and the bytes of their data. In place of a number may stand
    a type, the number, and the bytes."""
    entries, all = {}, b""
    for name, of in elements.items():
        own, count, data = of if isinstance(of, tuple) else (dtype, of, bytes(width * of))
        entries[name] = tensor(len(all), len(all) + len(data), [count], own)
        all += data
    return entries, all


def text(metadata):
    """Values as they stand in the metadata: texts, be they JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def checkpoint(change=None, elements=SLOTS, crc32=None, dtype="F32", width=4):
    """A checkpoint with this change of its metadata (None leaves a key out). Its checksums are right, unless given."""
    metadata = text({key: value for key, value in (METADATA | (change or {})).items() if value is not None})
    entries, data = tensors(elements, dtype, width)
    zeros = "0" * 8 * (len(entries) + 1)

    def head(sums):
        header = json.dumps({"__metadata__": {"crc32": sums} | metadata} | entries, separators=(",", ":")).encode()
        return struct.pack("<Q", len(header)) + header

    spans = [entry["data_offsets"] for entry in entries.values()]
    sums = [zlib.crc32(head(zeros)), *(zlib.crc32(data[start:end]) for start, end in spans)]
    return head("".join(f"{s:08x}" for s in sums) if crc32 is None else crc32) + data


def group(**change):
    return {"groups": [GROUP | change]}


def settings(**change):
    return group(settings=SETTINGS | change)


SCALER = {"init_scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
CHAIN = {"accumulate": False, "zero_grads": False}
CONTROL = {"scale": 65536.0, "growth_tracker": 0, "skipped": 0}


def scaled(**parts):
    """A chain with a scaler and other parts, and what belongs to it."""
    return {"chain": CHAIN | {"scaler": SCALER} | parts, "scaler": CONTROL, "histories": {"w": 0}}


FORMATS = {
    "params": "f32", "grads": "f32", "master": False, "state": {"exp_avg": "q8", "exp_avg_sq": "q8"}, "rounding": "nearest",
    "seed": 0, "q8_min": 1, "q8_zero": "guarded",
}


def codes(count=2):
    return ("U8", count, bytes(count))


def scales(*values, dtype="F32", letter="f"):
    return (dtype, len(values), struct.pack(f"<{len(values)}{letter}", *values))


CODES = {
    "state.w.exp_avg": codes(), "scales.w.exp_avg": scales(1.0), "state.w.exp_avg_sq": codes(),
    "scales.w.exp_avg_sq": scales(0.5),
}


def formatted(change=None, elements=CODES, version="2", without=()):
    """A checkpoint of a group with formats: with this change of them, or this text, and without these arrays."""
    formats = change if isinstance(change, (str, list)) else FORMATS | (change or {})
    if isinstance(formats, dict):
        formats = {key: value for key, value in formats.items() if value is not None}
    groups = json.dumps([GROUP | {"formats": formats if not isinstance(formats, str) else 0}])
    if isinstance(formats, str):
        groups = groups.replace('"formats": 0', '"formats": ' + formats)
    elements = {name: of for name, of in elements.items() if name not in without}
    return checkpoint({"version": version, "groups": groups}, elements)


def without_crc32():
    entries, data = tensors(SLOTS)
    return file({"__metadata__": text(METADATA)} | entries, 0) + data


TORCH_GROUP = {
    "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False, "foreach": None,
    "capturable": False, "differentiable": False, "fused": None, "decoupled_weight_decay": False, "params": [0],
}
TORCH_SLOTS = {"state.0.step": 1, "state.0.exp_avg": 2, "state.0.exp_avg_sq": 2}


def torch(change=None, metadata=None, elements=TORCH_SLOTS, step=1.0):
    """A state_dict() with this change of its group, of its metadata or of its step count."""
    groups = [{key: value for key, value in (TORCH_GROUP | (change or {})).items() if value != "left out"}]
    entries, data = tensors(elements)
    data = struct.pack("<f", step) + data[4:] if "state.0.step" in elements else data
    return file({"__metadata__": text({"format": "pt", "param_groups": groups} | (metadata or {}))} | entries, 0) + data


CHECKPOINTS = {
    # Something else.
    "weights": file({"w": tensor(0, 4)}),
    "weights_of_torch": file({"__metadata__": {"format": "pt"}, "w": tensor(0, 4)}),
    "pickle_of_torch": b"PK\x03\x04\x00\x00\x08\x08" + bytes(100),
    "state_of_apply": file({"__metadata__": {"format": "wgpu-optim-state", "version": "1"}}, 0),
    # The metadata.
    "version_3": checkpoint({"version": "3"}),
    "version_missing": checkpoint({"version": None}),
    "key_unknown": checkpoint({"schedule": "{}"}),
    "rule_missing": checkpoint({"rule": None}),
    "rule_of_another": checkpoint({"rule": "sofa"}),
    "groups_missing": checkpoint({"groups": None}),
    "groups_no_json": checkpoint({"groups": "adam"}),
    "groups_no_list": checkpoint({"groups": {}}),
    "groups_nested_deep": checkpoint({"groups": "[" * DEPTH + "]" * DEPTH}),
    "group_key_unknown": checkpoint(group(match="w")),
    "tensor_in_two_groups": checkpoint({"groups": [GROUP, GROUP]}),
    "tensor_twice_in_a_group": checkpoint(group(tensors=["w", "w"])),
    "setting_missing": checkpoint(group(settings={"lr": 1e-3})),
    "setting_unknown": checkpoint(settings(beta3=0.5)),
    "setting_out_of_range": checkpoint(settings(beta2=1.5)),
    "setting_of_another_kind": checkpoint(settings(lr="fast")),
    "setting_null": checkpoint(settings(lr=None)),
    "setting_nan": checkpoint({"groups": json.dumps([GROUP]).replace("0.001", "NaN")}),
    "setting_past_f64": checkpoint({"groups": json.dumps([GROUP]).replace("0.001", "1e999")}),
    "setting_twice": checkpoint({"groups": json.dumps([GROUP]).replace('"lr"', '"lr": 1, "lr"')}),
    "steps_nan": checkpoint({"steps": '{"w": NaN}'}),
    "steps_negative": checkpoint({"steps": {"w": -1}}),
    "steps_fraction": checkpoint({"steps": {"w": 1.5}}),
    "steps_past_64_bits": checkpoint({"steps": {"w": 2**64}}),
    "steps_missing": checkpoint({"steps": {}}),
    "steps_of_nobody": checkpoint({"steps": {"w": 3, "v": 3}}),
    "steps_twice": checkpoint({"steps": '{"w": 3, "w": 4}'}),
    "frozen_nobody": checkpoint({"frozen": ["v"]}),
    "frozen_no_list": checkpoint({"frozen": "w"}),
    "extras_twice": checkpoint({"extras": '{"a": 1, "a": 2}'}),
    "extras_nested_deep": checkpoint({"extras": '{"a": ' + "[" * DEPTH + "]" * DEPTH + "}"}),
    "extras_not_asked_for": checkpoint({"extras": {"a": 1}}),
    # The loop.
    "chain_no_json": checkpoint({"chain": "none"}),
    "chain_part_unknown": checkpoint({"chain": CHAIN | {"sofa": {}}}),
    "chain_setting_missing": checkpoint(scaled(scaler={"init_scale": 2.0})),
    "chain_setting_unknown": checkpoint(scaled(scaler=SCALER | {"scale": 1.0})),
    "chain_out_of_range": checkpoint(scaled(scaler=SCALER | {"growth_factor": 0.5})),
    "chain_of_two_clips": checkpoint(scaled(clip={"global_norm": 1.0, "value": 1.0, "norm": "l2", "form": "keras"})),
    "chain_setting_twice": checkpoint({"chain": '{"accumulate": true, "accumulate": false}'}),
    "chain_of_another": checkpoint(scaled()),
    "scaler_missing": checkpoint(scaled() | {"scaler": None}),
    "scaler_without_chain": checkpoint({"scaler": CONTROL}),
    "scaler_negative": checkpoint(scaled() | {"scaler": CONTROL | {"scale": -1.0}}),
    "scaler_past_f32": checkpoint(scaled() | {"scaler": CONTROL | {"scale": 1e39}}),
    "scaler_of_more_than_f32": checkpoint(scaled() | {"scaler": CONTROL | {"scale": 0.1}}),
    "scaler_nan": checkpoint(scaled() | {"scaler": '{"scale": NaN, "growth_tracker": 0, "skipped": 0}'}),
    "scaler_tracker_past_32_bits": checkpoint(scaled() | {"scaler": CONTROL | {"growth_tracker": 2**32}}),
    "scaler_skipped_missing": checkpoint(scaled() | {"scaler": {"scale": 1.0, "growth_tracker": 0}}),
    "recorded_negative": checkpoint({"recorded": -1}),
    "recorded_past_64_bits": checkpoint({"recorded": 2**64}),
    "histories_missing": checkpoint(scaled() | {"histories": None}),
    "histories_without_one": checkpoint(scaled() | {"histories": {}}),
    "histories_of_nobody": checkpoint(scaled() | {"histories": {"w": 0, "v": 0}}),
    "histories_twice": checkpoint(scaled() | {"histories": '{"w": 0, "w": 1}'}),
    "schedule_kind_unknown": checkpoint(group(schedule={"kind": "sofa"})),
    "schedule_argument_unknown": checkpoint(group(schedule={"kind": "exponential", "gamma": 0.5, "t_max": 3})),
    "schedule_out_of_range": checkpoint(group(schedule={"kind": "exponential", "gamma": -1.0})),
    "schedule_of_another": checkpoint(group(schedule={"kind": "exponential", "gamma": 0.5})),
    # The tensors.
    "key_without_form": checkpoint(elements=SLOTS | {"w": 2}),
    "key_without_slot": checkpoint(elements=SLOTS | {"state.w": 2}),
    "state_of_nobody": checkpoint(elements=SLOTS | {"state.v.exp_avg": 2}),
    "params_of_nobody": checkpoint(elements=SLOTS | {"params.v": 2}),
    "lengths_differ": checkpoint(elements=SLOTS | {"params.w": 3}),
    "slot_missing": checkpoint(elements={"state.w.exp_avg": 2}),
    "slot_unknown": checkpoint(elements=SLOTS | {"state.w.velocity": 2}),
    "no_state": checkpoint(elements={}),
    "halves": checkpoint(dtype="F16", width=2),
    # Formats.
    "formats_no_table": formatted([]),
    "formats_in_version_1": formatted(version="1"),
    "formats_missing_in_version_2": checkpoint({"version": "2"}, CODES),
    "formats_key_unknown": formatted({"sofa": 1}),
    "formats_key_missing": formatted({"seed": None}),
    "formats_word_unknown": formatted({"params": "f8"}),
    "formats_slot_word_unknown": formatted({"state": {"exp_avg": "q4"}}),
    "formats_slot_twice": formatted(json.dumps(FORMATS).replace('"exp_avg_sq": "q8"', '"exp_avg": "bf16"')),
    "formats_key_twice": formatted(json.dumps(FORMATS).replace('"seed": 0', '"seed": 0, "seed": 1')),
    "formats_seed_negative": formatted({"seed": -1}),
    "formats_seed_past_64_bits": formatted({"seed": 2**64}),
    "formats_q8_min_fraction": formatted({"q8_min": 0.5}),
    "formats_master_of_f32": formatted({"master": True}),
    "formats_kahan_beside_master": formatted({"params": "f16", "master": True, "rounding": "kahan"}),
    "formats_of_another": formatted(),
    "formats_of_other_slots": formatted({"state": {"velocity": "bf16"}}, SLOTS),
    "codes_of_other_length": formatted(elements=CODES | {"state.w.exp_avg_sq": codes(3)}),
    "codes_not_named": formatted({"q8_min": 3}),
    "codes_named_and_halves": formatted(elements=CODES | {"state.w.exp_avg_sq": ("BF16", 2, bytes(4))}, without=["scales.w.exp_avg_sq"]),
    "codes_named_and_full": formatted(elements=SLOTS),
    "scales_missing": formatted(without=["scales.w.exp_avg_sq"]),
    "scales_too_many": formatted(elements=CODES | {"scales.w.exp_avg": scales(1.0, 1.0)}),
    "scales_of_no_block": formatted(elements=CODES | {"scales.w.exp_avg": scales()}),
    "scales_of_halves": formatted(elements=CODES | {"scales.w.exp_avg": scales(1.0, dtype="F16", letter="e")}),
    "scales_of_nobody": formatted(elements=CODES | {"scales.v.exp_avg": scales(1.0)}),
    "scales_of_no_codes": checkpoint(elements=SLOTS | {"scales.w.exp_avg": scales(1.0)}),
    "scales_of_no_slot": formatted(elements=CODES | {"scales.w.velocity": scales(1.0)}),
    "scales_without_slot": formatted(elements=CODES | {"scales.w": scales(1.0)}),
    "halves_not_the_named": formatted({"state": {"exp_avg": "bf16", "exp_avg_sq": "bf16"}}, SLOTS),
    "params_not_the_named": formatted({"params": "bf16"}, CODES | {"params.w": ("F16", 2, bytes(4))}),
    "master_of_halves": formatted({"params": "f16", "master": True}, CODES | {"state.w.master_param": ("F16", 2, bytes(4))}),
    "kahan_of_another_half": formatted(
        {"params": "f16", "rounding": "kahan"}, CODES | {"state.w.kahan_comp": ("BF16", 2, bytes(4))}
    ),
    "kahan_not_named": formatted({"params": "f16"}, CODES | {"state.w.kahan_comp": ("F16", 2, bytes(4))}),
    "halves_of_odd_bytes": formatted(elements=CODES | {"params.w": ("BF16", 2, bytes(3))}),
    "doubles": checkpoint(elements=SLOTS | {"params.w": ("F64", 2, bytes(16))}),
    # The checksums.
    "crc32_missing": without_crc32(),
    "crc32_too_short": checkpoint(crc32="00000000"),
    "crc32_in_capitals": checkpoint(crc32="ABCDEF00" * 3),
    "crc32_of_another_file": checkpoint(crc32="01234567" * 3),
    "data_damaged": checkpoint()[:-1] + b"\x01",
    # PyTorch.
    "torch_groups_no_json": torch(metadata={"param_groups": "Adam"}),
    "torch_groups_of_none": torch(metadata={"param_groups": [{"lr": 0.1, "params": [0]}]}),
    "torch_key_unknown": torch(metadata={"state": "{}"}),
    "torch_class_unknown": torch(metadata={"optimizer": "NAdam"}),
    "torch_setting_unknown": torch({"momentum_decay": 0.004}),
    "torch_setting_missing": torch({"eps": "left out"}, {"optimizer": "Adam"}),
    "torch_setting_of_another_kind": torch({"amsgrad": 1}),
    "torch_lr_is_a_tensor": torch({"lr": {"tensor": 0.1}}),
    "torch_betas_of_three": torch({"betas": [0.9, 0.99, 0.999]}),
    "torch_betas_out_of_range": torch({"betas": [0.9, 1.0]}),
    "torch_ids_no_list": torch({"params": "all"}),
    "torch_id_twice": torch({"params": [0, 0]}),
    "torch_id_of_nobody": torch(elements=TORCH_SLOTS | {"state.1.exp_avg": 2}),
    "torch_id_with_zeros": torch(elements=TORCH_SLOTS | {"state.00.exp_avg": 2}),
    "torch_step_missing": torch(elements={"state.0.exp_avg": 2, "state.0.exp_avg_sq": 2}),
    "torch_step_nan": torch(step=float("nan")),
    "torch_step_fraction": torch(step=0.5),
    "torch_step_too_large": torch(step=2.0**24),
    "torch_step_of_two": torch(elements=TORCH_SLOTS | {"state.0.step": 2}),
    "torch_two_tensors": torch({"params": [0, 1]}),
    "torch_halves": torch(elements=TORCH_SLOTS | {"state.0.exp_avg": ("BF16", 2, bytes(4))}),
    "torch_codes": torch(elements=TORCH_SLOTS | {"state.0.exp_avg": codes()}),
    "torch_doubles": torch(elements=TORCH_SLOTS | {"state.0.exp_avg": ("F64", 2, bytes(16))}),
    "torch_step_of_halves": torch(elements=TORCH_SLOTS | {"state.0.step": ("BF16", 1, bytes(2))}),
}

# Those that only an optimizer with these formats looks into, and what they differ from.
FORMATTED = {
    "sound": formatted(),
    "scale_nan": formatted(elements=CODES | {"scales.w.exp_avg_sq": scales(float("nan"))}),
    "scale_negative": formatted(elements=CODES | {"scales.w.exp_avg": scales(-1.0)}),
    "scale_minus_zero": formatted(elements=CODES | {"scales.w.exp_avg": scales(-0.0)}),
    "scale_infinite": formatted(elements=CODES | {"scales.w.exp_avg": scales(float("inf"))}),
    "scale_damaged": formatted()[:-1] + b"\x01",
    "codes_of_one": formatted(
        elements={name: codes(1) if "state" in name else of for name, of in CODES.items()}
    ),
    "codes_past_a_block": formatted(
        elements={name: codes(257) if "state" in name else scales(1.0, 1.0) for name, of in CODES.items()}
    ),
    "slot_missing": formatted(without=["state.w.exp_avg_sq", "scales.w.exp_avg_sq"]),
    "zero_of_another": formatted({"q8_zero": "reference"}),
    "state_of_f32": checkpoint(),
}

for folder, files in [(HERE, ATTACKS), (HERE / "checkpoint", CHECKPOINTS), (HERE / "formats", FORMATTED)]:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
