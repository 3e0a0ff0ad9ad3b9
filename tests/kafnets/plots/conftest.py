import numpy as np
import pytest


@pytest.fixture(name="is_drawn")
def fixture_is_drawn():
    """A function that draws a figure and says whether its pixels differ."""

    def is_drawn(figure):
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 1

    return is_drawn
