"""Small images for contact sheets, all of one size; one that cannot be shown is crossed out."""

from __future__ import annotations

from PIL import Image, ImageDraw

from fashionbatch.drawing.lettering import font
from fashionbatch.errors import ImageError
from fashionbatch.pipeline.decode import decode

INK, PALE, MAT, RED = "#222222", "#777777", "#f0f0f0", "#c0392b"


def cell(data: bytes | str, side: int) -> Image.Image | str:
    """The whole image on a square mat, or why there is none.

    Args:
        data: the image file's bytes, or why they could not be had.
        side: of the square, in pixels.
    """
    if isinstance(data, str):
        return data
    try:
        image = decode(data)
    except ImageError as error:
        return str(error)
    return on_mat(image, side)


def on_mat(image: Image.Image, side: int) -> Image.Image:
    """The whole image in the middle of a square of ``side`` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    made = Image.new("RGB", (side, side), MAT)
    made.paste(small, ((side - width) // 2, (side - height) // 2))
    return made


def cross(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, text: str = "unreadable"
) -> None:
    """A crossed cell with a word on it, in place of an image."""
    left, top = corner
    right, bottom = left + side - 1, top + side - 1
    draw.rectangle((left, top, right, bottom), MAT, RED)
    draw.line((left, top, right, bottom), RED)
    draw.line((left, bottom, right, top), RED)
    centre = (left + side / 2, top + side / 2)
    box = draw.textbbox(centre, text, font(12), anchor="mm")
    draw.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), MAT)
    draw.text(centre, text, RED, font(12), anchor="mm")
