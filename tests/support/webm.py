"""A small WebM video of any length, made of one still frame (four coloured bars)."""

import base64
import struct

# A VP8 key frame of 64 x 36 pixels, as a browser's canvas made it.
_FRAME = base64.b64decode(
    "EAUAnQEqQAAkAD9dlsNYsqqoI7VZ/AJQK4lkAM5sVgoHt1T+AniwU4QUnqm7NpeUAAD+15X2QGK/fYV4"
    "2Ipqr1f7yrBx/v7rn77SikSw/SaTBpKfSnIIIYJmCpwAHALQAAA="
)
_FRAMES_PER_SEC = 4


def _element(name: str, *content: bytes | int) -> bytes:
    """An EBML element; its name in hex, its length in eight bytes."""
    data = b"".join(
        each if isinstance(each, bytes) else each.to_bytes(8, "big") for each in content
    )
    return bytes.fromhex(name) + (len(data) | 1 << 56).to_bytes(8, "big") + data


def video(seconds: int) -> bytes:
    """A video that can be sought in: a cluster, a key frame and a cue each second."""
    header = _element(
        "1A45DFA3",
        _element("4286", 1),
        _element("42F7", 1),
        _element("42F2", 4),
        _element("42F3", 8),
        _element("4282", b"webm"),
        _element("4287", 2),
        _element("4285", 2),
    )
    about = _element(
        "1549A966",
        _element("2AD7B1", 1_000_000),
        _element("4489", struct.pack(">d", seconds * 1000)),
        _element("4D80", b"tests"),
        _element("5741", b"tests"),
    )
    track = _element(
        "1654AE6B",
        _element(
            "AE",
            *(_element("D7", 1), _element("73C5", 1), _element("83", 1)),
            _element("86", b"V_VP8"),
            _element("E0", _element("B0", 64), _element("BA", 36)),
        ),
    )
    clusters = [
        _element(
            "1F43B675",
            _element("E7", second * 1000),
            *(
                _element(
                    "A3",
                    b"\x81"
                    + struct.pack(">h", number * 1000 // _FRAMES_PER_SEC)
                    + b"\x80"
                    + _FRAME,
                )
                for number in range(_FRAMES_PER_SEC)
            ),
        )
        for second in range(seconds)
    ]

    def cues(first_cluster: int) -> bytes:
        points, at = [], first_cluster
        for second, cluster in enumerate(clusters):
            place = _element("B7", _element("F7", 1), _element("F1", at))
            points.append(_element("BB", _element("B3", second * 1000), place))
            at += len(cluster)
        return _element("1C53BB6B", *points)

    front = about + track
    index = cues(len(front) + len(cues(0)))
    return header + _element("18538067", front, index, *clusters)
