"""The first principal component of a tall or wide matrix, without its full decomposition."""

import torch

STEPS = 128
TOLERANCE = 1e-6


def principal_component(rows: torch.Tensor) -> torch.Tensor:
    """The unit vector along which `rows` vary most, by Lanczos iteration on their covariance.

    Every step multiplies with the rows twice and keeps its vector orthogonal to all before it, so that rounding does
    not bring back what was found; the iteration restarts from its best vector until that satisfies the eigenvalue
    equation.

    Args:
        rows: float32 (rows, columns); they are centred here.

    Returns:
        float32 (columns,), on the rows' device; its entry of largest size is positive, as in scikit-learn. Zeros if the
        rows do not vary.
    """
    centred = rows - rows.mean(dim=0)
    if not centred.any():
        return torch.zeros_like(centred[0])
    # A start that no data are orthogonal to, other than by chance, and the same on every device.
    start = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    for _ in range(STEPS):
        start, residual = _lanczos(centred, start)
        if residual <= TOLERANCE:
            break
    return start * torch.sign(start[start.abs().argmax()])


def _lanczos(centred: torch.Tensor, start: torch.Tensor, size: int = 32) -> tuple[torch.Tensor, float]:
    """The best vector of the Krylov space of `start`, of at most `size` dimensions, and its relative residual."""
    basis = [start / start.norm()]
    images = [_covariance(centred, basis[0])]
    scale = images[0].norm()
    while len(basis) < min(size, *centred.shape):
        known = torch.stack(basis)
        new = images[-1] - known.T @ (known @ images[-1])
        # Twice: after one pass, what rounding left of the known vectors is no longer small beside the rest.
        new = new - known.T @ (known @ new)
        if new.norm() <= TOLERANCE * 1e-1 * scale:
            break
        basis.append(new / new.norm())
        images.append(_covariance(centred, basis[-1]))
        scale = torch.maximum(scale, images[-1].norm())
    space, mapped = torch.stack(basis), torch.stack(images)
    values, vectors = torch.linalg.eigh((space @ mapped.T).double().cpu())
    weights = vectors[:, -1].to(space)
    best = weights @ space
    residual = (weights @ mapped - values[-1].to(space) * best).norm()
    return best / best.norm(), float(residual / values[-1].to(space).clamp_min(torch.finfo(space.dtype).tiny))


def _covariance(centred: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return centred.T @ (centred @ vector)
