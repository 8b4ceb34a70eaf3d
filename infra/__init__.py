"""The outside world: the cluster, the tracking server, storage."""

import os

# Read when Ray is imported. Without it, whatever asks Ray for something before this process is connected, or after it
# has left, joins any cluster that is found on this machine.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
