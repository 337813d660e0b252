"""The first principal component of a tall or wide matrix, without its full decomposition."""

import torch

# Maximum number of basis vectors before a restart from the best vector in their span, and number of steps between two
# convergence checks. Data with one leading direction need few steps, data without one need many.
SPAN, BETWEEN = 128, 8
RESTARTS = 32
TOLERANCE = 1e-6


def principal_component(rows: torch.Tensor) -> torch.Tensor:
    """The unit vector along which `rows` vary most, by Lanczos iteration on their covariance.

    Each step multiplies by the rows twice and makes its vector orthogonal to all earlier ones. The iteration stops when
    the best vector in their span satisfies the eigenvalue equation.

    Args:
        rows: float32 (rows, columns); they are centred here.

    Returns:
        float32 (columns,), on the rows' device; its largest entry in magnitude is positive, as in scikit-learn. Zeros
        if the rows do not vary.
    """
    centred = rows - rows.mean(dim=0)
    if not centred.any():
        return torch.zeros_like(centred[0])
    # A random start, the same on every device, is not orthogonal to the component except by chance.
    best = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    for _ in range(RESTARTS):
        best, residual = _lanczos(centred, best)
        if residual <= TOLERANCE:
            break
    return best * torch.sign(best[best.abs().argmax()])


def _lanczos(centred: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The best vector in the Krylov space of `start`, and its relative residual."""
    most = min(SPAN, *centred.shape)
    basis, images = (torch.empty(most, len(start)).to(centred) for _ in range(2))
    new = start
    for step in range(most):
        basis[step] = new / new.norm()
        images[step] = centred.T @ (centred @ basis[step])
        known, mapped = basis[: step + 1], images[: step + 1]
        new = mapped[-1] - known.T @ (known @ mapped[-1])
        # Twice: after one pass, rounding errors along the known vectors are no longer small compared with the rest.
        new = new - known.T @ (known @ new)
        last = step + 1 == most or new.norm() <= 0.1 * TOLERANCE * mapped.norm(dim=1).max()
        if last or (step + 1) % BETWEEN == 0:
            best, residual = _best(known, mapped)
            if last or residual <= TOLERANCE:
                break
    return best, residual


def _best(basis: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The unit vector that the covariance lengthens most, among those that `basis` (vectors, columns) spans.

    Args:
        images: what the covariance makes of the basis.

    Returns:
        The vector, and the norm of its residual in the eigenvalue equation, relative to the eigenvalue.
    """
    values, vectors = torch.linalg.eigh((basis @ images.T).double().cpu())
    weights, value = vectors[:, -1].to(basis), values[-1].to(basis)
    best = weights @ basis
    residual = (weights @ images - value * best).norm()
    return best / best.norm(), float(residual / value.clamp_min(torch.finfo(basis.dtype).tiny))
