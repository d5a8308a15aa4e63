"""Programs of others that tests need."""

import os
import shutil

import pytest

from tests.postgres import PATH


def need(*programs: str) -> None:
    """Skip the test at a desk, fail it in CI, where one of them is not installed."""
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            message = f"{program} is not installed"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
