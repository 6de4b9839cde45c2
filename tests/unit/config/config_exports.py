"""Names that come from elsewhere."""

from config_targets import *  # noqa: F403
from config_targets import Plain as Renamed

__all__ = ["Renamed"]
