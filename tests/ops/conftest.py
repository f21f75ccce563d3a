"""Every operator is tested twice: compiled, and through torch alone."""

import pytest

from osteomet.ops import acceleration


@pytest.fixture(params=["numba", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on one of the two paths; returns which."""
    if request.param == "torch":
        monkeypatch.setattr(acceleration, "NUMBA_ENABLED", False)
    elif not acceleration.NUMBA_ENABLED:
        pytest.skip("numba is not installed or switched off")
    return str(request.param)
