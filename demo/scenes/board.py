"""Flat upright objects in a scene, drawn in metres from their foot."""

from collections.abc import Sequence

from demo.scenes.canvas import Canvas, Color, Fill, Point, mix_color


class Board:
    """A flat upright object facing the camera, drawn in metres from its foot (u right, v up)."""

    def __init__(self, canvas: Canvas, x: float, z: float, class_id: int, turn: int = 1) -> None:
        """`turn` -1 mirrors it."""
        camera = canvas.camera
        self.canvas, self.x, self.z, self.class_id = canvas, x, z, class_id
        self.scale = camera.focal / z
        self.turn = turn
        self.column, self.row = camera.point(x, 0.0, z)
        self._gain, self._offset = canvas.tint(z)

    def _fill(self, rgb: Color, shade: float, emits: bool) -> Fill:
        if emits:
            return (int(rgb[0]), int(rgb[1]), int(rgb[2]), self.class_id)
        return mix_color(rgb, self.class_id, self._gain, self._offset, shade)

    def at(self, u: float, v: float) -> Point:
        """Canvas column and row."""
        return self.column + self.turn * u * self.scale, self.row - v * self.scale

    def polygon(self, points: Sequence[Point], rgb: Color, shade: float = 1.0) -> None:
        self.canvas.pen.polygon(
            [self.at(u, v) for u, v in points], fill=self._fill(rgb, shade, False)
        )

    def box(self, left: float, bottom: float, right: float, top: float, rgb: Color) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], rgb)

    def ellipse(
        self,
        u: float,
        v: float,
        ru: float,
        rv: float,
        rgb: Color,
        shade: float = 1.0,
        emits: bool = False,
    ) -> None:
        column, row = self.at(u, v)
        ru, rv = ru * self.scale, rv * self.scale
        box = (column - ru, row - rv, column + ru, row + rv)
        self.canvas.pen.ellipse(box, fill=self._fill(rgb, shade, emits))

    def ring(self, u: float, v: float, radius: float, width: float, rgb: Color) -> None:
        column, row = self.at(u, v)
        radius *= self.scale
        self.canvas.pen.ellipse(
            (column - radius, row - radius, column + radius, row + radius),
            outline=self._fill(rgb, 1.0, False),
            width=max(1, round(width * self.scale)),
        )

    def limb(self, points: Sequence[Point], width: float, rgb: Color, shade: float = 1.0) -> None:
        """A bent bar of the given width."""
        self.canvas.pen.line(
            [self.at(u, v) for u, v in points],
            fill=self._fill(rgb, shade, False),
            width=max(1, round(width * self.scale)),
            joint="curve" if width * self.scale > 4 else None,
        )

    def glow(self, u: float, v: float, radius: float, rgb: Color) -> None:
        column, row = self.at(u, v)
        self.canvas.glows.append((self.class_id, column, row, radius * self.scale, rgb))
