"""The labels of a data set in the order of doubt, with what explains each doubt."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from tintype.interface.tables import Table
from tintype.verbs.audit.files import Inspected
from tintype.verbs.audit.labels import LabelIssues

CANDIDATES = 9  # classes that are named for an image, as many as there are keys for digits
NEIGHBOURS = 4  # images of each class that are shown beside one


class Doubts:
    """Every label that was judged, the most doubtful first; the flagged ones lead.

    Attributes:
        rows: (M,) positions of the images.
        num_flagged: how many of them look wrong.
    """

    def __init__(self, inspected: Inspected, issues: LabelIssues, features: np.ndarray) -> None:
        """Put labels into order.

        Args:
            inspected: the images.
            issues: what was found out about their labels.
            features: (N, F), whose neighbours explain.
        """
        self.inspected = inspected
        self.issues = issues
        self.rows = np.concatenate([issues.rows, issues.others])
        self.num_flagged = len(issues.rows)
        self._features = features

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.inspected.target.names

    def label(self, row: int) -> str:
        """Return the label that an image came with."""
        return self.names[self.inspected.targets[row]]

    def suggested(self, index: int) -> int:
        """Return the class that an image looks like: the other one where its label looks wrong."""
        if index < self.num_flagged:
            return int(self.issues.suggested[index])
        return int(self.issues.probabilities[self.rows[index]].argmax())

    def candidates(self, index: int) -> list[tuple[int, float]]:
        """Return the most probable classes of an image with their probabilities; its label is
        always among them.
        """
        row = self.rows[index]
        probabilities = self.issues.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")[:CANDIDATES].tolist()
        given = int(self.inspected.targets[row])
        if given not in order:
            order[-1] = given
        return [(c, float(probabilities[c])) for c in order]

    def neighbours(self, row: int, label: int) -> list[int]:
        """Return the images of a class that resemble an image most, the nearest first."""
        of_class = np.flatnonzero(self.inspected.targets == label)
        of_class = of_class[of_class != row]
        closeness = self._directions[of_class] @ self._directions[row]
        return of_class[np.argsort(-closeness, kind="stable")[:NEIGHBOURS]].tolist()

    def table(self) -> Table:
        """Return a row for each image whose label looks wrong."""
        columns = zip(
            self.issues.rows.tolist(),
            self.issues.suggested.tolist(),
            self.issues.suggested_probability.tolist(),
            self.issues.given_probability.tolist(),
            strict=True,
        )
        return Table(
            {
                "name": self.inspected.names[row],
                "label": self.label(row),
                "suggested": self.names[other],
                "probability": probability,
                "label_probability": own,
            }
            for row, other, probability, own in columns
        )

    @cached_property
    def _directions(self) -> np.ndarray:
        """Features as directions from their mean, so that a product is a cosine."""
        features = np.asarray(self._features, np.float32)
        spread = features.std(0)
        centred = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-6)
