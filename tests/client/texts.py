"""Texts that tests send."""


def every_plane() -> str:
    """Characters of every Unicode plane, the last before and the first after each change of UTF-8 length among them."""
    edges = [0x01, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF]
    planes = [plane << 16 | offset for plane in range(17) for offset in (0x21, 0x1234, 0xFFFD)]
    words = "naïve 漢字かな עברית हिन्दी 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u202eabc\u202c zero\u0000byte"
    return words + " " + "".join(map(chr, edges)) + " " + "".join(map(chr, planes))
