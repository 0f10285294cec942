"""Records of generated traffic, as NDJSON."""

from pathlib import Path
from typing import Any

from btfeed.posts.post import digest
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from btfeed.traffic.profile import Profile
from tests.support.fakes import mapper


def write(path: Path, traffic: str | Profile, **options: Any) -> Path:
    """The records of the visits of a profile. options: as of GenerateOptions."""
    loaded = profile.load(traffic) if isinstance(traffic, str) else traffic
    mapping = mapper()
    with path.open("wb") as file:
        for post in generate(GenerateOptions(loaded, **options)):
            file.writelines(mapping.map(post.body, digest(post.body)).batch.parts)
    return path
