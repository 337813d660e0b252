"""The first principal component is found even where it needs more vectors than the iteration keeps."""

import torch

from repe.vectors import principal_component as module
from repe.vectors.principal_component import principal_component


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
