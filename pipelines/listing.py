"""Files under a folder or an S3 prefix, one at a time: a listing is never held as a whole."""

import os
from collections.abc import Iterator

from pipelines import s3
from pipelines.fetch import file_version, object_version
from pipelines.items import Entry, display, has_image_suffix
from pipelines.ledger import is_of_output
from radet.errors import ConfigError, FetchError


def walk(root: str, *, but: str | None = None) -> Iterator[Entry]:
    """Every file below `root` (recursive), or `root` itself if it is one file; nothing below `but`, a folder in it, nor
    what earlier runs have written to other folders in it.

    A folder that cannot be listed, whose location ends in a slash, and one that is named like an image are entries too:
    reading them says why they are no pictures, and nothing is passed over in silence. Links to folders stay unread.

    Raises:
        ConfigError: there is nothing of that name, or it may not be listed.
    """
    if not root:  # as of a variable that is not set; as a path it would be the folder that the command was called in
        raise ConfigError("an empty name is no source: give a folder, a file or s3://bucket/prefix, . for this folder")
    if not root.startswith("s3://"):
        path = os.path.abspath(os.path.expanduser(root))
        if not os.path.exists(path):
            mend = "; of addresses, s3://bucket/prefix is read" if "://" in root else ""
            raise ConfigError(f"no such file or folder: {root}{mend}")
        if not os.path.isdir(path):
            return iter([_file(path)])
        try:
            os.scandir(path).close()
        except OSError as error:
            raise ConfigError(f"{root} cannot be listed: {error.strerror}") from error
        return _walk_folder(path, None if but is None else os.path.realpath(os.path.expanduser(but)))
    if not s3.split(root)[0]:
        raise ConfigError(f"{root} names no bucket: write s3://bucket/prefix")
    try:
        return _walk_prefix(root, but)
    except FetchError as error:
        raise ConfigError(str(error)) from error


def same_place(one: str, other: str) -> bool:
    """Whether two names are of one folder, on disk or on S3."""
    if one.startswith("s3://") or other.startswith("s3://"):
        return one.rstrip("/") == other.rstrip("/")
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def _walk_folder(root: str, but: str | None) -> Iterator[Entry]:
    folders = [root]
    while folders:
        folder = folders.pop()
        if but is not None and os.path.realpath(folder) == but:
            continue
        try:
            with os.scandir(folder) as listing:
                for item in listing:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                        if has_image_suffix(item.name):
                            yield _entry(item.path)
                    elif not is_of_output(item.path.removeprefix(root)):
                        yield _file(item.path)
        except OSError:
            yield _entry(f"{folder}/")


def _file(path: str) -> Entry:
    try:
        status = os.stat(path)
    except OSError:
        return _entry(path)  # reading it will say why
    return _entry(path, file_version(status), status.st_size)


def _entry(location: str, version: str | None = None, size: int | None = None) -> Entry:
    uri = display(location)
    return Entry(uri, uri, location, version, size)


def _walk_prefix(url: str, but: str | None) -> Iterator[Entry]:
    """`s3://bucket/a` is the object `a`, else the folder `a/`, else every key that starts with `a`."""
    bucket, key = s3.split(url)
    if key and not key.endswith("/"):
        try:
            item = s3.head(url)
        except FetchError as error:
            if error.code not in ("not_found", "forbidden"):  # who may list that folder alone may not ask
                raise
        else:
            return iter([_entry(url, object_version(item), item.size)])
        if _any_under(bucket, key + "/"):
            key += "/"
    if not _any_under(bucket, key):
        raise ConfigError(f"nothing under {url}")
    left_out = None if but is None or not but.startswith("s3://") else "/".join(s3.split(but)).rstrip("/") + "/"
    if left_out is not None and not left_out.startswith(f"{bucket}/{key}"):
        left_out = None  # it is elsewhere, or around all of this
    return (
        _entry(f"s3://{bucket}/{item.key}", object_version(item), item.size)
        for page in s3.pages(bucket, key)
        for item in page
        if not item.key.endswith("/")  # a folder marker, not an object of its own
        and not (left_out is not None and f"{bucket}/{item.key}".startswith(left_out))
        and not is_of_output(item.key.removeprefix(key))
    )


def _any_under(bucket: str, prefix: str) -> bool:
    return any(s3.pages(bucket, prefix, limit=1))
