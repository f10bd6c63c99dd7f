"""Video files to frames, and frames to arrays. Needs PyAV (the extra `video`) and numpy.

Frames are av.VideoFrame, in the order in which they are shown; arrays are as in images.py. Luma is read
where the decoder left it, without a copy where it has 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import VideoFrame

from fused_ssim.cli.errors import CliError, first_line
from fused_ssim.cli.images import Pixels
from fused_ssim.cli.measure import channels_of

_FULL_SWING = 2  # AVCOL_RANGE_JPEG


@dataclass(frozen=True)
class Video:
    """What a file says about its first video stream."""

    path: Path
    width: int
    height: int
    rate: Fraction | None
    """Frames a second, on average."""
    frame_count: int | None
    """As the header has it, which need not be right."""
    bits: int
    is_rgb: bool
    full_swing: bool
    """Whether black is 0 and white the largest number, instead of 16 and 235 of 255."""

    @property
    def facts(self) -> str:
        """In words."""
        rate = "" if self.rate is None else f", {float(self.rate):.6g} frames/s"
        return f"{self.width} x {self.height}, {self.bits} bits{rate}"


def probe(path: Path) -> Video:
    """Read the header."""
    with _opened(path) as container:
        stream = _video_stream(container, path)
        codec = stream.codec_context
        pixels, rate = codec.format, stream.average_rate
        if pixels is None:
            raise CliError(f"{path}: its header does not tell the format of pixels")
        return Video(
            path=path,
            width=codec.width,
            height=codec.height,
            # PyAV 19 has a type of its own for fractions.
            rate=Fraction(rate.numerator, rate.denominator) if rate else None,
            frame_count=stream.frames or None,
            bits=pixels.components[0].bits,
            is_rgb=pixels.is_rgb or pixels.has_palette,
            full_swing=codec.color_range == _FULL_SWING or pixels.name.startswith("yuvj"),
        )


def frames(path: Path) -> Iterator[VideoFrame]:
    """Decode, in threads of the decoder's own."""
    with _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def luma(frame: VideoFrame, bits: int, *, full_swing: bool) -> Pixels:
    """[H, W, 1]: the luma as it is stored; of RGB that of ITU-R BT.601.

    Args:
        frame: decoded.
        bits: at least as many as the frame has. In studio swing numbers of fewer bits are
            shifted, in full swing white is the largest of either.
        full_swing: as Video.full_swing.
    """
    kind = frame.format
    if kind.is_rgb or kind.has_palette:
        return channels_of(rgb(frame), "y-full" if full_swing else "y")
    if not _luma_lies_alone(frame):
        depth = next((d for d in (8, 10, 12) if d >= kind.components[0].bits), 16)
        suffix = f"{depth}le" if depth > 8 else ""
        frame = _converted(frame, f"yuv444p{suffix}")
        kind = frame.format
    depth = kind.components[0].bits
    values = _plane(frame, kind.is_big_endian, depth)[:, : frame.width, None]
    if depth == bits == 8:
        return values
    white = 2**depth - 1 if full_swing else (2**bits - 1) / 2 ** (bits - depth)
    scaled: Pixels = np.divide(values, white, dtype=np.float32)
    return scaled


def rgb(frame: VideoFrame) -> Pixels:
    """[H, W, 3], as FFmpeg converts it."""
    deep = frame.format.components[0].bits > 8
    frame = _converted(frame, "rgb48le" if deep else "rgb24")
    values = _plane(frame, False, 16 if deep else 8)[:, : 3 * frame.width]
    values = values.reshape(frame.height, frame.width, 3)
    return np.divide(values, np.float32(65535)) if deep else values


def _converted(frame: VideoFrame, kind: str) -> VideoFrame:
    try:
        return frame.reformat(format=kind)
    except (av.FFmpegError, ValueError) as error:
        raise CliError(
            f"FFmpeg does not convert {frame.format.name} to {kind} ({first_line(error)})"
        ) from None


def _luma_lies_alone(frame: VideoFrame) -> bool:
    """Whether the first plane is luma and nothing else, in the low bits of its numbers."""
    first, *others = frame.format.components
    in_high_bits = frame.format.name.startswith(("p0", "p2", "p4"))
    return first.plane == 0 and all(one.plane > 0 for one in others) and not in_high_bits


def _plane(frame: VideoFrame, big_endian: bool, bits: int) -> Pixels:
    """[H, W']: the first plane with what lies behind its rows."""
    plane: Any = frame.planes[0]  # before PyAV 19 its type does not say that it is a buffer
    kind = np.dtype(np.uint8 if bits <= 8 else ">u2" if big_endian else "<u2")
    count = plane.height * plane.line_size // kind.itemsize
    values: Pixels = np.frombuffer(plane, kind, count)
    return values.reshape(plane.height, -1)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The file; errors of FFmpeg, while it is open, name it."""
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.InvalidDataError:
        raise CliError(f"{path}: not a video that FFmpeg can read, or a damaged one") from None
    except (av.FFmpegError, ValueError) as error:
        raise CliError(f"{path}: unreadable video ({first_line(error)})") from None


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise CliError(f"{path}: has no video stream")
    return container.streams.video[0]
