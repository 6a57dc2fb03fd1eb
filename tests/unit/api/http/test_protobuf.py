"""Training requests and results in protobuf; sampling results are in test_futures."""

import struct

import pytest

from tinkex.api.http import protobuf
from tinkex.exceptions import InvalidResponse, UsageError


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(number, name, value):
    return field(number, field(1, name.encode()) + field(2, value))


def column(data, offsets, dtype, *trailing):
    packed = field(4, b"".join(map(varint, trailing))) if trailing else b""
    offsets = struct.pack(f"<{len(offsets)}q", *offsets)
    return field(1, data) + field(2, offsets) + field(3, dtype) + packed


LOGPROBS = struct.pack("<3f", -0.5, -1.0, -2.0)


def test_an_output_is_its_examples_in_order_whatever_record_they_are_in():
    one = entry(2, "logprobs", column(LOGPROBS, [0, 4, 12], 1)) + field(3, 2)
    wide = entry(2, "logprobs", column(struct.pack("<2H", 0x3F80, 0xC000), [0, 4], 4, 2))
    message = field(1, b"module:CrossEntropyLossReturn") + field(2, one) + field(2, wide)
    message += entry(3, "loss:sum", 2.5) + field(3, field(1, b"zero:max"))

    assert protobuf.forward_backward_output(message) == {
        "loss_fn_output_type": "CrossEntropyLossReturn",
        "loss_fn_outputs": [
            {"logprobs": {"data": [-0.5], "dtype": "float32", "shape": [1]}},
            {"logprobs": {"data": [-1.0, -2.0], "dtype": "float32", "shape": [2]}},
            {"logprobs": {"data": [1.0, -2.0], "dtype": "float32", "shape": [1, 2]}},
        ],
        "metrics": {"loss:sum": 2.5, "zero:max": 0.0},
    }


def test_integers_of_both_widths_and_examples_without_fields_are_read():
    narrow = entry(2, "ids", column(struct.pack("<i", 7), [0, 4], 3))
    (found,) = protobuf.forward_backward_output(field(2, narrow))["loss_fn_outputs"]
    assert found["ids"] == {"data": [7], "dtype": "int64", "shape": [1]}
    assert protobuf.forward_backward_output(field(2, field(3, 2)))["loss_fn_outputs"] == [{}, {}]


@pytest.mark.parametrize(
    "message",
    [
        *(b"\x0a", field(1, 5), field(1, b"\xff"), field(3, field(1, b"a") + field(2, b"short"))),
        *(field(2, field(3, 2**50)), field(2, entry(2, "a", column(LOGPROBS, [0, 4], 9)))),
        field(2, entry(2, "a", column(LOGPROBS, [4, 0], 1))),
        field(2, entry(2, "a", column(LOGPROBS, [-8, 0], 1))),
        field(2, entry(2, "a", column(LOGPROBS, [0, 16], 1))),
        field(2, entry(2, "a", column(LOGPROBS, [0, 3], 1))),
        field(2, entry(2, "a", column(LOGPROBS, [0, 12], 1, 2))),
        field(2, entry(2, "a", column(LOGPROBS, [0, 4], 1)) + field(3, 2)),
        field(2, entry(2, "a", b"") + entry(2, "b", 5)),
    ],
)
def test_malformed_outputs_are_refused(message):
    with pytest.raises(InvalidResponse, match="malformed protobuf"):
        protobuf.forward_backward_output(message)


def body(**changes):
    tensor = {"data": [5, 6], "dtype": "int64", "shape": [2], **changes.pop("tensor", {})}
    datum = {
        "model_input": {"chunks": [{"tokens": [3, 4], **changes.pop("chunk", {})}]},
        "loss_fn_inputs": {"target_tokens": tensor},
    }
    given = {"data": [datum], "loss_fn": "ppo", "loss_fn_config": {"low": 0.5, "mode": "x"}}
    return {"model_id": "m", "seq_id": 300, "forward_backward_input": given}


@pytest.mark.parametrize("forward_only", [False, True])
def test_a_request_has_the_fields_of_the_protocol(forward_only):
    tensor = field(1, struct.pack("<2q", 5, 6)) + field(3, 2) + field(4, b"\x02")
    datum = field(1, field(1, field(1, struct.pack("<2i", 3, 4))))
    datum += entry(2, "target_tokens", tensor)
    expected = field(1, b"m") + field(2, 300) + field(3, datum) + field(4, b"ppo")
    expected += entry(5, "low", 0.5) + entry(7, "low", field(1, 0.5))
    expected += entry(7, "mode", field(2, b"x"))
    expected += field(6, 1) if forward_only else b""

    assert protobuf.forward_backward_request(body(), forward_only=forward_only) == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"chunk": {"type": "image"}}, "image"),
        ({"chunk": {"tokens": [2**40]}}, "cannot encode"),
        ({"tensor": {"data": ["x"]}}, "cannot encode"),
        ({"tensor": {"dtype": "int32"}}, "target_tokens"),
        ({"tensor": {"sparse_crow_indices": [0]}}, "target_tokens"),
    ],
)
def test_what_a_request_cannot_contain_is_refused(changes, named):
    with pytest.raises(UsageError, match=named):
        protobuf.forward_backward_request(body(**changes))
