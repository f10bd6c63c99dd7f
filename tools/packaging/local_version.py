"""Provider of the project's version for scikit-build-core (dynamic metadata).

The version stands in pyproject.toml, in the entry that names this provider. The environment variable
FUSED_SSIM_LOCAL_VERSION adds a local part to it, which tells the wheels of one release apart:
0.1.0 becomes 0.1.0+cu130.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

VARIABLE = "FUSED_SSIM_LOCAL_VERSION"


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    version = settings["version"]
    local = os.environ.get(VARIABLE, "")
    if not local:
        return {"version": version}
    # As packaging normalises it, so that no two spellings of one version exist.
    if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", local):
        raise ValueError(
            f"{VARIABLE}: expected lower-case letters and digits, in parts separated by points, "
            f"like cu130, got {local!r}"
        )
    return {"version": f"{version}+{local}"}
