"""What a file says of its own origin is found in every container, and told by a run over an older output too."""

import io
import json
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sink import read_scores
from radet.crop import CropPolicy
from radet.provenance import digital_source_type
from radet.rows import see

from .bad_inputs import encoded, photo
from .test_nights import Nights

IPTC = b"http://cv.iptc.org/newscodes/digitalsourcetype/"


def xmp(code: bytes) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        b'Iptc4xmpExt:DigitalSourceType="' + IPTC + code + b'"/></rdf:RDF></x:xmpmeta>'
    )


def cbor_text(text: bytes) -> bytes:
    return (bytes([0x60 + len(text)]) if len(text) < 24 else b"\x78" + bytes([len(text)])) + text


def with_c2pa(jpeg: bytes, code: bytes) -> bytes:
    """A JPEG with an APP11 segment as C2PA writes it: JUMBF boxes, in them the claim's actions as CBOR."""
    action = {b"action": b"c2pa.created", b"digitalSourceType": IPTC + code, b"softwareAgent": b"a generator"}
    body = b"\xa3" + b"".join(cbor_text(key) + cbor_text(value) for key, value in action.items())
    cbor = struct.pack(">I", 8 + len(body)) + b"cbor" + body
    label = b"c2ma\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71\x03c2pa.actions\x00"
    described = struct.pack(">I", 8 + len(label)) + b"jumd" + label
    jumbf = struct.pack(">I", 8 + len(described) + len(cbor)) + b"jumb" + described + cbor
    segment = b"JP\x00\x01" + struct.pack(">I", 1) + jumbf
    return jpeg[:2] + b"\xff\xeb" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF", "PNG"])
def test_xmp_is_found_in_every_container(kind: str) -> None:
    options: dict[str, Any] = {"xmp": xmp(b"trainedAlgorithmicMedia")}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
        options["pnginfo"] = text
    if kind == "TIFF":
        options = {"tiffinfo": {700: options["xmp"]}}
    policy = CropPolicy()
    told, plain = see(encoded(photo(), kind, **options), policy), see(encoded(photo(), kind), policy)
    assert told.facts["digital_source_type"] == "trainedAlgorithmicMedia"
    assert plain.facts["digital_source_type"] is None
    assert told.crop is not None
    assert plain.crop is not None
    assert told.crop.tobytes() == plain.crop.tobytes(), "no part of the score"


@pytest.mark.parametrize("code", ["composite", "compositeWithTrainedAlgorithmicMedia", "print", "digitalCapture"])
def test_a_manifest_of_c2pa_is_found_and_its_next_field_is_no_part_of_the_code(code: str) -> None:
    facts = see(with_c2pa(encoded(photo(), "JPEG"), code.encode()), CropPolicy()).facts
    assert "error" not in facts
    assert facts["digital_source_type"] == code


def test_what_a_picture_was_made_from_is_told_too_and_what_nobody_defines_is_not() -> None:
    both = xmp(b"compositeWithTrainedAlgorithmicMedia") + xmp(b"digitalCapture") + xmp(b"digitalCapture")
    assert digital_source_type(both) == "compositeWithTrainedAlgorithmicMedia, digitalCapture"
    assert digital_source_type(xmp(b"madeByMagic")) is None
    assert digital_source_type(xmp(b"print").replace(b"cv.iptc.org", b"example.org")) is None
    assert digital_source_type(b"http://c2pa.org/digitalsourcetype/empty") == "empty"
    assert digital_source_type(b"/digitalsourcetype/print") is None


def test_so_many_claims_are_looked_at_and_no_more() -> None:
    assert digital_source_type(IPTC * 99 + IPTC + b"print") == "print"
    assert digital_source_type(IPTC * 100 + IPTC + b"print") is None


def test_a_run_tells_it_and_goes_on_with_an_output_of_an_earlier_schema(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    src.mkdir()
    claims = encoded(Image.new("RGB", (60, 60), "red"), "JPEG", xmp=xmp(b"trainedAlgorithmicMedia"))
    (src / "a.jpg").write_bytes(claims)
    (src / "b.jpg").write_bytes(claims)
    (src / "c.jpg").write_bytes(encoded(Image.new("RGB", (60, 60), "blue"), "JPEG"))
    nights = Nights(src, out)
    nights.run()
    assert told(out) == {"a.jpg": "trainedAlgorithmicMedia", "b.jpg": "trainedAlgorithmicMedia", "c.jpg": None}
    (manifest,) = (json.loads(path.read_text()) for path in (out / "_runs").glob("*.json"))
    assert manifest["digital_source_types"] == {"trainedAlgorithmicMedia": 2}

    (part,) = (out / "parts").iterdir()
    pq.write_table(pq.read_table(io.BytesIO(part.read_bytes())).drop_columns(["digital_source_type"]), part)
    manifest["parts"][0]["sha256"] = sha256(part.read_bytes()).hexdigest()
    (out / "_runs" / f"{manifest['run']}.json").write_text(json.dumps(manifest))
    (src / "copy of c.jpg").write_bytes((src / "c.jpg").read_bytes())
    (src / "new.jpg").write_bytes(encoded(Image.new("RGB", (60, 60), "green"), "JPEG", xmp=xmp(b"digitalCapture")))
    nights.run()
    assert len(nights.rows()) == 5
    assert told(out) == {
        "a.jpg": None,
        "b.jpg": None,
        "c.jpg": None,
        "copy of c.jpg": None,
        "new.jpg": "digitalCapture",
    }


def test_a_killed_run_of_an_earlier_schema_is_gone_on_with(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    src.mkdir()
    for number in range(5):
        (src / f"{number}.jpg").write_bytes(encoded(Image.new("RGB", (60, 60), (number, 0, 0)), "JPEG"))
    nights = Nights(src, out)
    nights.run(killed_after=1)
    (staged,) = (out / "_staging").rglob("*.parquet")
    pq.write_table(pq.read_table(io.BytesIO(staged.read_bytes())).drop_columns(["digital_source_type"]), staged)
    assert nights.run().resumed == 3
    assert told(out) == {f"{number}.jpg": None for number in range(5)}


def told(out: Path) -> dict[str, str | None]:
    rows = read_scores(str(out), columns=["uri", "digital_source_type"]).to_pylist()
    return {Path(row["uri"]).name: row["digital_source_type"] for row in rows}
