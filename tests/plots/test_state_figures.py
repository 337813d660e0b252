"""Planes of states against scikit-learn's components and known geometry."""

import numpy as np
from sklearn.decomposition import PCA

from repe.plots.state_figures import plane_of_components, plane_of_concept, shared_direction, state_scatter

GENERATOR = np.random.default_rng(0)
# The sides differ along the first axis, languages along the second, the texts mostly along the third.
STATES = {
    language: GENERATOR.standard_normal((30, 2, 6)) * [1, 1, 5, 1, 1, 1]
    + np.array([[3, shift, 0, 0, 0, 0], [-3, shift, 0, 0, 0, 0]])
    for language, shift in (("en", 0.0), ("fr", 2.0))
}


def test_components_are_scikit_learns() -> None:
    rows = np.concatenate([one.reshape(-1, 6) for one in STATES.values()])
    found = np.concatenate([one.reshape(-1, 2) for one in plane_of_components(STATES).values()])
    expected = PCA(2).fit_transform(rows)
    np.testing.assert_allclose(abs(found), abs(expected), atol=1e-9)


def test_the_shared_direction_separates_the_sides_and_the_other_axis_is_across_it() -> None:
    plane = plane_of_concept(STATES)
    assert abs(shared_direction(STATES)[0]) > 0.95
    for points in plane.values():
        assert (points[:, 0, 0] > 0).mean() > 0.9
        assert (points[:, 1, 0] < 0).mean() > 0.9
    across = np.concatenate([one[..., 1].ravel() for one in plane.values()])
    third = np.concatenate([one[..., 2].ravel() for one in STATES.values()])
    assert abs(np.corrcoef(across, third)[0, 1]) > 0.95


def test_the_figure_names_languages_and_sides() -> None:
    legend = state_scatter(STATES, "title").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["positive side", "negative side", "en", "fr"]
