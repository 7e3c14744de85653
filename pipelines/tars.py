"""WebDataset tars as a source: every member with an image suffix is an input."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import s3fs

from pipelines.fetch import MAX_BYTES
from pipelines.items import Entry, Item, display, has_image_suffix
from pipelines.outage import READING, outage
from radet.errors import FetchError, ImageError


def read_items(body: dict[str, Any], batch_rows: int) -> Iterator[list[Item]]:
    """The images of one archive, in batches, in one pass from front to back.

    With `ids`, the id is that field of the sample's `.json` member; WebDataset keeps a sample's members together.
    """
    uri_of_file = body["uri_of_file"]
    batch: list[Item] = []
    try:
        with _open(body["file"]) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for sample in _samples(archive):
                batch += _images(sample, uri_of_file, body["ids"])
                while len(batch) >= batch_rows:
                    yield batch[:batch_rows]
                    batch = batch[batch_rows:]
    except (tarfile.TarError, EOFError, *READING) as error:
        entry = Entry(uri_of_file, uri_of_file, "", body["version"])
        broken = ImageError("truncated", f"the archive cannot be read to its end: {error}")
        unread = outage(error)
        batch.append(Item(entry, error=unread or broken, rest=unread is not None))
    if batch:
        yield batch


def _open(location: str) -> IO[bytes]:
    if location.startswith("s3://"):
        return s3fs.S3FileSystem().open(location, "rb", block_size=8 << 20)  # type: ignore[no-any-return]
    return open(location, "rb")  # closed by the caller's `with`


def _samples(archive: tarfile.TarFile) -> Iterator[dict[str, bytes | FetchError]]:
    """Members by name, one dict a sample: names that agree up to the first dot of the base name."""
    sample: dict[str, bytes | FetchError] = {}
    key = None
    for member in archive:
        if not member.isfile() or not (has_image_suffix(member.name) or member.name.endswith(".json")):
            continue
        if _key(member.name) != key:
            if sample:
                yield sample
            sample, key = {}, _key(member.name)
        if member.size > MAX_BYTES:
            message = f"{member.size:,} bytes, over the cap of {MAX_BYTES:,}"
            sample[member.name] = FetchError("too_large_bytes", message)
        else:
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            data = content.read()
            if len(data) < member.size:
                raise tarfile.ReadError(f"{member.name} is cut short")
            sample[member.name] = data
    if sample:
        yield sample


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _images(sample: dict[str, bytes | FetchError], uri_of_file: str, ids: str | None) -> Iterator[Item]:
    fields: dict[str, Any] = {}
    for name, data in sample.items():
        if ids is not None and PurePosixPath(name).suffix == ".json" and isinstance(data, bytes):
            try:
                fields = json.loads(data)
            except (ValueError, RecursionError):
                fields = {}
    for name, data in sample.items():
        if has_image_suffix(name):
            uri = display(f"{uri_of_file}#{name}")
            name_of_sample = fields.get(ids, uri) if ids is not None and isinstance(fields, dict) else uri
            entry = Entry(display(str(name_of_sample)), uri, "")
            yield Item(entry, data=data) if isinstance(data, bytes) else Item(entry, error=data)
