"""Networks: encoders, decoders, discriminators, normalization."""
