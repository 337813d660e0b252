"""The principal component against scikit-learn's full decomposition, and where the iteration restarts."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from repe.vectors import principal_component as module
from repe.vectors.principal_component import principal_component


def reference(rows: torch.Tensor) -> np.ndarray:
    """The component of a full decomposition in double precision, its largest entry positive."""
    component = PCA(1, svd_solver="full").fit(rows.double().numpy()).components_[0]
    return component * np.sign(component[np.abs(component).argmax()])


@pytest.mark.parametrize("shape", [(2, 3), (3, 200), (200, 3), (64, 64), (300, 500)])
def test_principal_component_is_exact_for_any_shape(shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) + 5
    component = principal_component(rows)
    np.testing.assert_allclose(component.numpy(), reference(rows), atol=2e-6)
    assert component[component.abs().argmax()] > 0


def rows_with_close_eigenvalues(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose covariance has eigenvalues that crowd towards the largest, and its eigenvector, built in float64."""
    generator = torch.Generator().manual_seed(0)

    def orthonormal(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(drawn - drawn.mean(dim=0)).Q

    axes = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    eigenvalues = 1 - (torch.arange(columns, dtype=torch.float64) / columns) ** 1.5
    rows = (orthonormal(columns + 50, columns) * eigenvalues.sqrt()) @ axes.T
    first = axes[:, 0]
    return rows.float(), first * first[first.abs().argmax()].sign()


def test_the_iteration_is_restarted_until_the_component_is_exact() -> None:
    rows, expected = rows_with_close_eigenvalues(600)
    assert min(rows.shape) > module.SPAN
    torch.testing.assert_close(principal_component(rows).double(), expected, rtol=0, atol=5e-4)


def test_rows_that_do_not_vary_have_no_component() -> None:
    assert not principal_component(torch.ones(5, 3)).any()
