"""A bucket of S3 as a store of files (`infra.store`), through s3fs.

Made by `infra.store.store_at`; its secret is handed straight to the client and shown nowhere. It tries each request
once: who calls tries again, and says so.
"""

import errno
import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from infra.secrets import Secret
from infra.store import StoreRefused, StoreUnavailable, checked, try_out

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_FAILURES = (OSError, BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError)
_REFUSALS = {
    "AccessDenied", "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken",
    "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp", "SignatureDoesNotMatch", "403",
    "XMinioInvalidAccessKey", "Forbidden",
}  # fmt: skip
_BLOCK = 1 << 20


class S3Store:
    """A bucket, or a folder of one; see `infra.store.Store`."""

    def __init__(self, url: str, endpoint: str, key: str, secret: Secret, region: str = "") -> None:
        self.url = url.rstrip("/")
        self._bucket, _, self._under = self.url.removeprefix("s3://").partition("/")
        self._endpoint = endpoint
        self._files = s3fs.S3FileSystem(
            key=key,
            secret=secret.reveal(),
            endpoint_url=endpoint or None,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "signature_version": "s3v4",
                "connect_timeout": 5,
                "read_timeout": 30,
                "retries": {"max_attempts": 1},
                "s3": {"addressing_style": "path" if endpoint else "auto"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._files.retries = 1
        self._page = 1_000

    def sizes(self, under: str = "") -> dict[str, int]:
        """Every file below a folder with its bytes."""
        prefix = self._key(f"{checked(under)}/") if under else self._key("")
        cut = len(self._key(""))
        found: dict[str, int] = {}
        further: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", under, Prefix=prefix, MaxKeys=self._page, **further)
            found |= {one["Key"][cut:]: int(one["Size"]) for one in page.get("Contents", ())}
            if not page.get("IsTruncated"):
                return {name: found[name] for name in sorted(found) if not name.endswith("/")}
            further = {"ContinuationToken": page["NextContinuationToken"]}

    def names(self, under: str = "") -> list[str]:
        """The names alone."""
        return list(self.sizes(under))

    def read(self, name: str) -> bytes:
        """Whole content."""
        try:
            return self._cut(name)
        except FileNotFoundError:
            self.size(name)  # raises where it is the bucket that is missing
            raise

    def open(self, name: str) -> BinaryIO:
        """For reading parts of it."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such file in the bucket", f"{self.url}/{name}")
        return cast("BinaryIO", io.BufferedReader(_Object(self, name, size), _BLOCK))

    def write(self, name: str, data: bytes) -> None:
        """Put it in one request: a bucket shows it whole or not at all."""
        self._call("put_object", name, Key=self._key(checked(name)), Body=data)

    def size(self, name: str) -> int | None:
        """Bytes; asked by a listing, because only that tells a missing file from a missing bucket."""
        key = self._key(checked(name))
        found = self._call("list_objects_v2", name, Prefix=key, MaxKeys=1)
        return next((int(one["Size"]) for one in found.get("Contents", ()) if one["Key"] == key), None)

    def delete(self, name: str) -> None:
        """Remove it."""
        self._call("delete_object", name, Key=self._key(checked(name)))

    def check(self) -> None:
        """Try it."""
        try_out(self, f"the bucket {self.url}", "Look at `archive.target`, `archive.endpoint` and the key's rights.")

    def _cut(self, name: str, first: int | None = None, end: int | None = None) -> bytes:
        path = f"{self._bucket}/{self._key(checked(name))}"
        try:
            return cast("bytes", self._files.cat_file(path, start=first, end=end))
        except _FAILURES as error:
            raise self._told(error, name) from error

    def _key(self, name: str) -> str:
        return f"{self._under}/{name}" if self._under else name

    def _call(self, method: str, name: str, **arguments: Any) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", self._files.call_s3(method, Bucket=self._bucket, **arguments))
        except _FAILURES as error:
            raise self._told(error, name) from error

    def _told(self, error: Exception, name: str) -> Exception:
        """The same error by what to do."""
        where = f"{self.url}/{name}" if name else self.url
        if isinstance(error, FileNotFoundError) and error.__cause__ is None:  # s3fs itself looked
            return FileNotFoundError(errno.ENOENT, "no such file in the bucket", where)
        cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
        code = str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""
        if code in {"NoSuchKey", "404"}:
            return FileNotFoundError(errno.ENOENT, "no such file in the bucket", where)
        if code in _REFUSALS:
            return StoreRefused(f"{where}: refused ({code}). Look at the key in run/secrets/archive and its rights.")
        if code == "NoSuchBucket":
            return StoreUnavailable(
                f"{where}: there is no bucket {self._bucket!r} (`archive.target`, `archive.endpoint`)"
            )
        if code:
            return StoreUnavailable(f"{where}: {code}")
        place = self._endpoint or "the endpoint of Amazon (`archive.endpoint` is empty)"
        return StoreUnavailable(
            f"{where}: {place} does not answer as S3 does ({type(cause).__name__}). Look at `archive.endpoint`, and"
            " whether its server runs."
        )


class _Object(io.RawIOBase):
    """Reads ranges of one object."""

    def __init__(self, store: S3Store, name: str, size: int) -> None:
        super().__init__()
        self._store = store
        self._name = name
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer with what comes next."""
        view = memoryview(buffer)
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        data = self._store._cut(self._name, self._at, end)  # noqa: SLF001 - a part of the store
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
