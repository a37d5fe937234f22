"""Paints faces with numpy, many at once. n = faces, s = side in pixels, E = expression parameters, 3 = RGB.

A face lies in a square of coordinates -1..1, y downwards. Every shape is a signed distance, turned into a soft edge one
pixel wide and laid over what is there.
"""

import numpy as np

from ldlva_dist.packing.sources.drawn_faces.looks import Array, Looks

EXPRESSION = ("curve", "open", "width", "brow_height", "brow_angle", "eye_open", "wrinkle", "lip_raise", "cheek")
"""Corners of the mouth up (+) or down; open mouth; wide mouth; brows raised; inner brows down (+) or up; open eyes;
wrinkled nose; raised upper lip; raised cheeks. About -1..1."""
MIN_PIXELS = 48
_LIGHT_BROWN, _DARK = (0.62, 0.36, 0.30), (0.10, 0.06, 0.06)


def paint(expression_nE: Array, looks: Looks, pixels: int) -> Array:
    """[n, s, s, 3] faces in 0..1, before camera noise."""
    canvas = _Canvas(looks, pixels)
    face = {name: expression_nE[:, i, None, None].astype(np.float32) for i, name in enumerate(EXPRESSION)}
    _paint_head(canvas, looks)
    _paint_nose(canvas, looks, face)
    for side in (-1.0, 1.0):
        _paint_eye(canvas, looks, face, side)
        _paint_brow(canvas, looks, face, side)
        _paint_fold(canvas, looks, face, side)
    _paint_mouth(canvas, looks, face)
    _shade(canvas, looks)
    return np.clip(canvas.image, 0, 1).transpose(0, 2, 3, 1)


class _Canvas:
    """The images, and the coordinates of each pixel as seen by the head: x, y of the skull and u of the turned face."""

    def __init__(self, looks: Looks, pixels: int) -> None:
        n = len(looks.skin)
        line = ((np.arange(pixels) + 0.5) * 2 / pixels - 1).astype(np.float32)
        self.screen_y, self.screen_x = line[None, :, None], line[None, None, :]
        shift_x, shift_y, tilt, turn, size = (looks.pose[:, i, None, None] for i in range(5))
        x, y = (
            (self.screen_x - 0.04 * shift_x) * (1 - 0.04 * size),
            (self.screen_y - 0.04 * shift_y) * (1 - 0.04 * size),
        )
        cos, sin = np.cos(0.09 * tilt), np.sin(0.09 * tilt)
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.u = self.x - 0.07 * turn * (1 - (self.x / 0.7) ** 2).clip(0, 1)
        self.edge = np.float32(2 / pixels)
        self.image = np.empty((n, 3, pixels, pixels), dtype=np.float32)

    def lay(self, distance: Array, color: Array | tuple[float, float, float], strength: Array | float = 1.0) -> None:
        """Cover the pixels with distance < 0 with a colour, softly at the edge."""
        cover = (0.5 - distance / self.edge).clip(0, 1) * np.asarray(strength, dtype=np.float32)
        color_n3 = np.broadcast_to(np.asarray(color, dtype=np.float32), (len(self.image), 3))
        for channel in range(3):
            plane = self.image[:, channel]
            plane += cover * (color_n3[:, channel, None, None] - plane)


def _ellipse(dx: Array, dy: Array, rx: Array | float, ry: Array | float) -> Array:
    """Signed distance to an ellipse, about right near its edge."""
    return (np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2) - 1) * np.minimum(rx, ry)


def _stroke(along: Array, across: Array, half_length: Array | float, thickness: Array | float) -> Array:
    """Signed distance to a stroke that thins out towards its ends."""
    taper = np.sqrt((1 - (along / half_length) ** 2).clip(0, 1))
    return np.where(np.abs(along) < half_length, np.abs(across) - thickness * taper, 1.0).astype(np.float32)


def _b(looks: Looks, i: int) -> Array:
    return looks.build[:, i, None, None]


def _paint_head(canvas: _Canvas, looks: Looks) -> None:
    x, y = canvas.x, canvas.y
    canvas.image[:] = looks.wall[:, :, None, None] * (1.05 - 0.15 * canvas.screen_y[:, None])
    width = 0.60 + 0.03 * _b(looks, 0)
    long_hair = 0.35 * _b(looks, 7)
    canvas.lay(np.maximum(_ellipse(x, y + 0.10, width + 0.14, 0.95), y - 0.15 - long_hair), looks.hair)
    canvas.lay(_ellipse(x, y - 1.30, 0.95, 0.42), looks.shirt)
    canvas.lay(np.maximum(np.abs(x) - 0.26, np.abs(y - 0.75) - 0.22), looks.skin * 0.82)
    for side in (-1.0, 1.0):
        canvas.lay(_ellipse(x - side * (width + 0.01), y - 0.02, 0.07, 0.14), looks.skin * 0.9)
    jaw = 1 + (0.28 - 0.06 * _b(looks, 1)) * (y / 0.8).clip(0, 1) ** 2
    head = _ellipse(x * jaw, y - 0.02, width, 0.80)
    canvas.lay(head, looks.skin)
    fringe = -0.50 + 0.06 * looks.build[:, 7, None, None] - 0.35 * x**2
    canvas.lay(np.maximum(_ellipse(x, y + 0.06, width + 0.07, 0.90), y - fringe), looks.hair)


def _paint_nose(canvas: _Canvas, looks: Looks, face: dict[str, Array]) -> None:
    u, y, dark = canvas.u, canvas.y, looks.skin * 0.62
    tip = 0.19 + 0.02 * _b(looks, 4) - 0.03 * face["wrinkle"].clip(0, 1)
    canvas.lay(_stroke(y - tip + 0.16, u - 0.045, 0.17, 0.014), dark, 0.45)
    canvas.lay(_ellipse(u, y - tip, 0.10, 0.05), looks.skin * 0.86, 0.7)
    for side in (-1.0, 1.0):
        canvas.lay(_ellipse(u - side * 0.055, y - tip - 0.03, 0.03, 0.018), dark * 0.6)
        wrinkle = face["wrinkle"].clip(0, 1.2)
        for step in range(3):
            across = y - tip + 0.17 + 0.055 * step - side * 0.55 * u
            canvas.lay(_stroke(u - side * 0.07, across, 0.06, 0.016), dark, 0.9 * wrinkle)


def _paint_eye(canvas: _Canvas, looks: Looks, face: dict[str, Array], side: float) -> None:
    size = 1 + 0.07 * _b(looks, 3)
    dx, dy = canvas.u - side * (0.265 + 0.012 * _b(looks, 2)), canvas.y + 0.10
    rx, ry = 0.125 * size, (0.105 * size * face["eye_open"].clip(0.06, 1.15))
    lift = 0.035 * face["cheek"].clip(-0.2, 1)
    lower = dy - ry * (1 - (dx / rx) ** 2) + lift
    white = np.maximum(_ellipse(dx, dy, rx, ry), lower)
    canvas.lay(_ellipse(dx, dy - 0.01, rx * 1.25, ry * 1.25 + 0.03), looks.skin * 0.84, 0.6)
    canvas.lay(white, (0.93, 0.92, 0.90))
    canvas.lay(np.maximum(white, _ellipse(dx, dy, 0.062 * size, 0.062 * size)), looks.iris)
    canvas.lay(np.maximum(white, _ellipse(dx, dy, 0.030 * size, 0.030 * size)), _DARK)
    lid = dy + ry * np.sqrt((1 - (dx / rx) ** 2).clip(0, 1))
    canvas.lay(_stroke(dx, lid, rx * 1.1, 0.026), _DARK, 0.85)
    bag = dy - ry * np.sqrt((1 - (dx / rx) ** 2).clip(0, 1)) + lift - 0.02
    canvas.lay(_stroke(dx, bag, rx * 1.1, 0.014), looks.skin * 0.6, 0.6)


def _paint_brow(canvas: _Canvas, looks: Looks, face: dict[str, Array], side: float) -> None:
    along = (canvas.u - side * 0.275) * side  # from the nose outwards
    middle = -0.305 - 0.085 * face["brow_height"] + 0.01 * _b(looks, 3)
    slope = 0.42 * face["brow_angle"]
    across = canvas.y - middle + slope * along - 0.9 * along**2 + 0.012
    color = looks.hair * 0.7
    canvas.lay(_stroke(along, across, 0.175, 0.036 + 0.006 * _b(looks, 6)), color)
    frown = face["brow_angle"].clip(0, 1) * (-face["brow_height"]).clip(0, 1)
    between = _stroke(canvas.y - middle - 0.02, canvas.u - side * 0.04, 0.08, 0.012)
    canvas.lay(between, looks.skin * 0.5, frown)


def _paint_fold(canvas: _Canvas, looks: Looks, face: dict[str, Array], side: float) -> None:
    """The line from the nose to the corner of the mouth, deep when cheeks or lip are raised."""
    depth = (0.5 * face["cheek"] + 0.35 * face["lip_raise"]).clip(0, 0.8)
    along = canvas.y - 0.34
    across = canvas.u * side - 0.245 - 0.45 * along + 1.6 * along**2
    canvas.lay(_stroke(along, across, 0.13, 0.014), looks.skin * 0.68, depth)


def _paint_mouth(canvas: _Canvas, looks: Looks, face: dict[str, Array]) -> None:
    half = 0.235 * face["width"].clip(0.5, 1.5)
    v = (canvas.u / half).clip(-1.2, 1.2)
    dy = canvas.y - (0.475 + 0.012 * _b(looks, 5))
    middle = -0.15 * face["curve"] * (v**2 - 0.45)
    arch = (1 - v**2).clip(0, 1)
    round_arch = np.sqrt(arch)
    opening = face["open"].clip(0, 1.1)
    raised = face["lip_raise"].clip(0, 1.2)
    top = middle - 0.085 * opening * round_arch - 0.055 * raised * np.sqrt(round_arch)
    bottom = middle + 0.155 * opening * round_arch + 0.010 * raised * round_arch
    inside = np.where(np.abs(v) < 1, np.maximum(top - dy, dy - bottom), 1.0)
    lips = np.where(np.abs(v) < 1.05, np.maximum(top - 0.036 * round_arch - dy, dy - bottom - 0.048 * round_arch), 1.0)
    lip = 0.45 * looks.skin + 0.55 * np.asarray(_LIGHT_BROWN, dtype=np.float32)
    canvas.lay(lips, lip)
    canvas.lay(inside, (0.20, 0.06, 0.07))
    teeth = 0.035 + 0.05 * raised + 0.03 * opening
    canvas.lay(
        np.maximum(inside, dy - top - teeth * round_arch), (0.93, 0.91, 0.87), (2 * raised + 1.2 * opening).clip(0, 1)
    )
    canvas.lay(_stroke(v * half, dy - (top + bottom) / 2, half, 0.014), _DARK, (1 - 4 * opening).clip(0, 1))


def _shade(canvas: _Canvas, looks: Looks) -> None:
    side, above, bright = (looks.light[:, i, None, None] for i in range(3))
    light = (0.92 + 0.10 * bright) * (1 + 0.16 * side * canvas.screen_x - 0.10 * above * canvas.screen_y)
    canvas.image *= light[:, None]
