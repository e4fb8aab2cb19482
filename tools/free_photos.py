"""Free photos from Debian's packages, as sources of training images: files, and images inside Qt's resource files.

    apt-get download mate-backgrounds gnome-backgrounds plasma-workspace-wallpapers ukui-wallpapers lomiri-wallpapers-16.04 \\
        lomiri-wallpapers-20.04 palapeli-data tuxpaint-data tuxpaint-stamps-default gcompris-qt-data
    for file in *.deb; do dpkg -x $file unpacked/${file%%_*}; done

Every source is from Debian's main archive, so its licence is free.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

NOT_PHOTOS = re.compile(
    r"cartoon|flags|roadsigns|grid|jigsaw|worldmap|frame_|tux_|screenshot|captures|/ui/|/icons/|abstract"
)
FROM_GCOMPRIS = (
    *("categorization", "explore_monuments", "erase", "details", "explore_world_animals", "explore_world_music"),
    *("explore_farm_animals", "paintings", "chronos", "clickgame", "instruments"),
)
IMAGES_INSIDE = re.compile(rb"RIFF....WEBP|\xff\xd8\xff[\xe0\xe1\xdb]|\x89PNG\r\n\x1a\n", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """An image: a file, or a part of a file (Qt's resource files contain unchanged images, one after the other)."""

    name: str
    path: Path
    start: int = 0

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 10 == 0

    def open(self) -> Image.Image:
        image = Image.open(io.BytesIO(self.path.read_bytes()[self.start :]))
        image.load()
        return image


def photo_files(root: Path) -> Iterator[Source]:
    """Desktop backgrounds and puzzles; of each, the largest copy."""
    largest: dict[Path | str, tuple[int, Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or NOT_PHOTOS.search(str(path)):
            continue
        if "stamps" in path.parts or "doc" in path.parts or ("tuxpaint" in path.parts and "starters" not in path.parts):
            continue
        key = path.parents[1] if path.parent.name.startswith("images") else path
        size = path.stat().st_size
        if size > 40_000 and size > largest.get(key, (0, path))[0]:
            largest[key] = (size, path)
    for _, path in largest.values():
        yield Source(str(path.relative_to(root)), path)


def resource_files(root: Path) -> Iterator[Source]:
    """Images inside gcompris' resource files."""
    for path in sorted(root.rglob("*.rcc")):
        if path.stem in FROM_GCOMPRIS:
            for found in IMAGES_INSIDE.finditer(path.read_bytes()):
                yield Source(f"{path.stem}@{found.start()}", path, found.start())
