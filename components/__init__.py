"""The parts: tasks, losses, networks, engine, data, transfer. Torch only: no Ray, no MLflow, no boto3 in here."""
