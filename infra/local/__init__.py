"""Real servers on this machine, for trying out and for tests: S3 over a folder, and the MLflow tracking server."""

from infra.local.mlflow import serve_mlflow
from infra.local.s3 import serve_s3
from infra.local.server import Server, free_port

__all__ = ["Server", "free_port", "serve_mlflow", "serve_s3"]
