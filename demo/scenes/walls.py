"""Upright walls in perspective."""

from collections.abc import Sequence

import numpy as np

from demo.scenes.canvas import BUILDING, Canvas, Color, Fill, mix_color


class Face:
    """An upright wall from `origin` (x,z) along `direction` (x,z).

    Its own coordinates (u, v) are in metres, u along the wall and v up.
    """

    def __init__(
        self,
        canvas: Canvas,
        origin: tuple[float, float],
        direction: tuple[float, float],
        long: float,
        high: float,
        middle: float,
        shade: float,
    ) -> None:
        self.canvas, self.origin, self.direction = canvas, origin, direction
        self.long, self.high, self.z, self.shade = long, high, middle, shade
        self.tint = canvas.tint(middle)
        self._boxes: list[np.ndarray] = []
        self._fills: list[Fill] = []
        start, middle, beyond, end = (
            canvas.camera.point(origin[0] + direction[0] * u, 0, origin[1] + direction[1] * u)[0]
            for u in (0, long / 2, long / 2 + 0.5, long)
        )
        self.scale = 2 * abs(beyond - middle)  # canvas pixels per metre at its middle
        self.is_visible = max(start, end) > 0 and min(start, end) < canvas.image.width

    def fill(self, rgb: Color, shade: float = 1.0, class_id: int = BUILDING) -> Fill:
        return mix_color(rgb, class_id, *self.tint, shade * self.shade)

    def add(self, boxes: Sequence | np.ndarray, fills: list[Fill]) -> None:
        """Add rectangles (N,4) of left, bottom, right, top; `fills` are repeated in turn."""
        boxes = np.asarray(boxes, float).reshape(-1, 4)
        self._boxes.append(boxes)
        self._fills += [fills[i % len(fills)] for i in range(len(boxes))]

    def place(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Canvas columns and rows (...,2) of wall coordinates."""
        points = np.empty((*u.shape, 3))
        points[..., 0] = self.origin[0] + self.direction[0] * u
        points[..., 1] = v
        points[..., 2] = self.origin[1] + self.direction[1] * u
        return self.canvas.camera.project(points)

    def paint(self) -> None:
        """Draw all rectangles that were added."""
        left, bottom, right, top = np.concatenate(self._boxes).T
        u, v = np.stack((left, right, right, left), -1), np.stack((bottom, bottom, top, top), -1)
        corners = self.place(u, v)
        inside = (corners.max(1) > 0).all(1) & (corners.min(1) < self.canvas.image.size).all(1)
        seen = np.flatnonzero(inside).tolist()
        places = corners[inside].ravel().tolist()
        for n, i in enumerate(seen):
            self.canvas.pen.polygon(places[8 * n : 8 * n + 8], fill=self._fills[i])
