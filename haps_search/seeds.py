"""Seeds derived from names, so that randomness depends on what is drawn and never on when or where."""

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of names: equal parts give equal seeds, in every process."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
