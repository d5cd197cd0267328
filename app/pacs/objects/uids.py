"""UIDs derived from what an object is made of: the same input gives the same UID, anywhere."""

import hashlib

PREFIX = "2.25."
"""UIDs derived from a UUID (PS3.5 B.2)."""
VERSION_BITS = ~(0xF << 76) & ~(0x3 << 62)


def derived_uid(*parts: str) -> str:
    """Derive a UID from the first 128 bits of a SHA-256, as a UUID of version 8 (RFC 9562).

    Args:
        parts: SOP instance UID of the source, digest of the model, digest of the configuration,
            kind of object and the like; their order counts.
    """
    text = "".join(f"{len(part)}:{part}" for part in parts)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return f"{PREFIX}{number & VERSION_BITS | 0x8 << 76 | 0x2 << 62}"
