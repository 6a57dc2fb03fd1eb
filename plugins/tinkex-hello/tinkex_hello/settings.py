"""Settings that users can set in their profiles, below ``plugins: {tinkex-hello: …}``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """The settings of this plugin."""

    greeting: str = field(default="Hello", metadata={"help": "greeting before the name"})
