"""The parts of a sweep: what may change, what is tried next, how a trial runs, what came out."""
