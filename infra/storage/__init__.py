"""Folders and S3 buckets behind one face."""

from infra.storage.base import Storage, absolute, is_remote, local_path, sha256_of
from infra.storage.cache import Cache
from infra.storage.opening import fetch_files, open_storage

__all__ = ["Cache", "Storage", "absolute", "fetch_files", "is_remote", "local_path", "open_storage", "sha256_of"]
