"""What the tests of loading share."""

import pytest

from faithgen.errors import FaithgenError
from faithgen.models import load_model


def fails(*arguments, match: str, **options) -> None:
    """Loading ends in one line that matches."""
    with pytest.raises(FaithgenError, match=match) as caught:
        load_model(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
