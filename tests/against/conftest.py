"""Sessions within a test, as the engine's own tests have them."""

from tests.engine.conftest import nobody_watches as nobody_watches
from tests.engine.conftest import pytest_configure as pytest_configure
