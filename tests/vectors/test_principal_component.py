"""The principal component against scikit-learn's full decomposition, also where the iteration has to restart."""

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


def test_the_iteration_restarts_until_it_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues that hardly differ need more dimensions than the span of one iteration has."""
    monkeypatch.setattr(module, "SPAN", 16)
    spread = torch.linspace(1, 1.3, 120)
    rows = torch.linalg.qr(torch.randn(400, 120, generator=torch.Generator().manual_seed(1)))[0] * spread
    expected = reference(rows)
    np.testing.assert_allclose(principal_component(rows).numpy(), expected, atol=1e-3)
    monkeypatch.setattr(module, "RESTARTS", 1)
    assert np.abs(principal_component(rows).numpy() - expected).max() > 1e-2


def test_rows_that_do_not_vary_have_no_component() -> None:
    assert not principal_component(torch.ones(5, 3)).any()
