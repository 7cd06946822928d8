"""The digits bed: 1,797 handwritten 8x8 digits from scikit-learn (UCI, Alpaydin and Kaynak 1998, CC BY 4.0)."""

from __future__ import annotations

import numpy as np

from redistill.beds.images import Images


def load() -> Images:
    """All digits: ``image`` [1797, 1, 8, 8] in [0, 1], ten classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Images(np.float32(digits.images / 16)[:, None], digits.target.astype(np.int64), classes=10)
