"""Programs of others that tests need."""

import os
import shutil
from typing import NoReturn

import pytest

from tests.postgres import PATH


def need(*programs: str) -> None:
    """See `missing`, of each of them that is not installed."""
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            missing(program)


def missing(what: str) -> NoReturn:
    """Skip the test at a desk, fail it in CI."""
    message = f"{what} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
