"""From a URL to the place that it names."""

from infra.storage.base import Storage, is_remote


def open_storage(url: str) -> Storage:
    """The folder (a path or file://...) or bucket (s3://bucket/prefix) at ``url``; nothing is touched yet.

    Raises OutsideError for a URL of another kind.
    """
    if is_remote(url):
        from infra.storage.bucket import BucketStorage

        return BucketStorage(url)
    from infra.storage.folder import FolderStorage

    return FolderStorage(url)
