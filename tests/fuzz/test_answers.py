"""What servers answer: whatever it is, it is read or refused as no answer."""

from __future__ import annotations

import contextlib
import io
import json
import stat
import struct
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.test_input import JSON
from tinkex.api.http import protobuf, schema
from tinkex.api.http.transport import join_url
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.sampling.types import SampleResponse
from tinkex.api.transfer import archive
from tinkex.api.transfer.staging import Directory
from tinkex.columns import printable
from tinkex.exceptions import InvalidResponse, TinkexError, from_response

NAMES = ("checkpoint_id", "checkpoint_type", "tinker_path", "time", "size_bytes", "public")
MEMBERS = st.sampled_from(
    [
        *(*NAMES, "expires_at", "user_metadata", "sequences", "tokens", "logprobs", "stop_reason"),
        *("prompt_logprobs", "topk_prompt_logprobs", "base_model", "detail", "error", "cursor"),
        "topk_logprobs",
    ]
)
OBJECT = st.dictionaries(MEMBERS | st.text(max_size=5), JSON, max_size=8)
TIMES = st.sampled_from(
    [
        "2026-11-22T13:55:34.109929",
        "2026-11-22T13:55:34Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31",
    ]
)


@given(JSON | OBJECT | st.builds(dict, time=TIMES, tinker_path=st.just("tinker://r/weights/n")))
def test_a_checkpoint_is_parsed_or_shown_as_received(tried, value):
    tried()
    found = Checkpoint.from_json(value)
    assert found.tinker_path
    assert found.time is None or found.time.tzinfo is not None


@given(OBJECT, st.none() | st.integers(0, 5))
@example({"sequences": [{"tokens": [1], "stop_reason": "stop", "logprobs": [float("nan")]}]}, 1)
@example({"sequences": [{"tokens": [1], "topk_logprobs": [[[1, float("-inf")], [2, -1]]]}]}, 1)
@example({"sequences": [], "topk_prompt_logprobs": [[[1, 10**400]]]}, 1)
def test_samples_are_serializable_or_rejected(tried, value, length):
    tried()
    try:
        response = SampleResponse.from_json(value, length)
    except InvalidResponse:
        return
    json.dumps(response.as_dict(), allow_nan=False)


@given(st.binary(max_size=120))
@example(b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
@example(b"\x12\xff\xff\xff\xff\x0f")
def test_protobuf_is_decoded_or_rejected(tried, message):
    tried()
    for decode, member in (
        (protobuf.sample_response, "sequences"),
        (protobuf.forward_backward_output, "loss_fn_outputs"),
    ):
        with contextlib.suppress(InvalidResponse):
            assert isinstance(decode(message)[member], list)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2**31 - 1), max_size=20),
            st.booleans(),
            st.floats(width=32, allow_nan=False, allow_infinity=False),
        ),
        max_size=5,
    )
)
def test_protobuf_is_decoded_without_changes(tried, sequences):
    """Written here after the message definition, and read by the program."""
    tried()
    message = b""
    for tokens, length, logprob in sequences:
        part = b"\x08\x01" if length else b""  # stop is 0, which proto3 does not write
        part += _bytes(2, struct.pack(f"<{len(tokens)}i", *tokens))
        part += _bytes(3, struct.pack(f"<{len(tokens)}f", *[logprob] * len(tokens)))
        message += _bytes(1, part)
    response = SampleResponse.from_json(protobuf.sample_response(message))
    assert [list(s.tokens) for s in response.sequences] == [tokens for tokens, _, _ in sequences]
    assert [s.stop_reason for s in response.sequences] == [
        "length" if length else "stop" for _, length, _ in sequences
    ]


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@given(
    st.integers(400, 599),
    (JSON | OBJECT).map(json.dumps).map(str.encode) | st.binary(max_size=40),
    st.sampled_from(["application/json", "text/html", ""]),
)
def test_any_error_body_becomes_one_sentence(tried, status, body, kind):
    tried()
    sentence = from_response(status, body, kind).sentence("It")
    assert str(status) in sentence
    assert "\n" not in printable(sentence)


@given(st.text(max_size=40))
@example("//evil.example/x")
@example("http://[::bad")
@example("javascript:alert(1)")
@example("file:///etc/passwd")
def test_a_redirect_target_is_valid_or_rejected(tried, place):
    tried()
    try:
        address = join_url("https://tinker.example/services/x/", place)
    except TinkexError:
        return
    # Other schemes are refused where they would be fetched.
    if address.startswith(("https:", "http:")):
        assert urlsplit(address).hostname


@given(st.dictionaries(st.sampled_from(["a"]), JSON))
def test_a_field_has_the_expected_type_or_is_rejected(tried, data):
    tried()
    for read, kinds in (
        (schema.optional_text, str),
        (schema.optional_int, int),
        (schema.optional_bool, bool),
    ):
        try:
            value = read(data, "a")
        except InvalidResponse:
            continue
        assert value is None or type(value) is kinds


# ------------------------------------------------------------------ archives

PARTS = st.sampled_from(
    [
        *("a", "A", "b", "..", ".", "", "é", "con", "x" * 90, "y" * 200, " ", "-rf", "a\\b", "c:"),
        *("\n", "\x1b[31m", "ﬁ", ".git", "~"),
    ]
)
FILE_NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=8)
KINDS = st.sampled_from(
    [
        *(tarfile.REGTYPE,) * 6,
        *(tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE),
        *(tarfile.GNUTYPE_SPARSE, b"Z"),
    ]
)
MEMBER = st.tuples(
    FILE_NAMES,
    KINDS,
    st.binary(max_size=30),
    FILE_NAMES,
    st.sampled_from([0o644, 0o6777, 0, 0o4755]),
)


@given(
    st.lists(MEMBER, max_size=5),
    st.booleans(),
    st.none() | st.tuples(st.integers(0, 6000), st.integers(0, 255)),
    st.none() | st.integers(0, 12_000),
)
@example(
    [("a", tarfile.SYMTYPE, b"", "/etc", 0o777), ("a/x", tarfile.REGTYPE, b"1", "", 0)],
    0,
    None,
    None,
)
@example(
    [("a", tarfile.REGTYPE, b"1", "", 0o6777), ("A", tarfile.REGTYPE, b"2", "", 0)], 0, None, None
)
def test_an_archive_is_extracted_only_below_its_directory(
    tried, tmp_path_factory, members, zipped, flip, cut
):
    tried()
    top = tmp_path_factory.mktemp("archive")
    target = top / "target"
    target.mkdir()
    extract(packed(members, zipped, flip, cut), target)
    assert [path.name for path in top.iterdir()] == ["target"]
    for path in target.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        assert path.resolve().is_relative_to(target)


def extract(data: bytes, target: Path) -> None:
    """Extract the archive *data* into *target*, or fail with an error of ours."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        directory = Directory.at(target)
        with (
            open(file.name, "rb", buffering=0) as source,
            contextlib.suppress(TinkexError, OSError),
        ):
            archive.extract(
                source,
                directory,
                admit=lambda _: None,
                check_space=lambda _: None,
                creating=contextlib.nullcontext,
            )
        directory.close()


def packed(members, zipped, flip, cut) -> bytes:
    """Return a tar stream of *members*, perhaps with one byte changed, perhaps cut."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if zipped else "w") as tar:
        for name, kind, content, link, mode in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, mode
            regular = kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
            member.size = len(content) if regular else 0
            try:
                tar.addfile(member, io.BytesIO(content) if regular else None)
            except (ValueError, UnicodeError):
                continue  # no archive can hold this name
    data = bytearray(stream.getvalue())
    if flip is not None and flip[0] < len(data):
        data[flip[0]] = flip[1]
    return bytes(data[:cut] if cut is not None else data)


def test_a_directory_that_is_a_link_is_not_written_through(tmp_path: Path):
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir(), target.mkdir()
    (target / "a").symlink_to(outside)
    extract(packed([("a/x", tarfile.REGTYPE, b"1", "", 0o644)], False, None, None), target)
    assert list(outside.iterdir()) == []
