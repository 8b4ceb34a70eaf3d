"""What a user runs: workflows made of steps."""

import infra as infra  # before Ray is imported anywhere: see there
