"""Self-distillation in closed form: kernel ridge regression that learns from itself, and the best weight of labels."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_self_distillation(kernel: Tensor, y: Tensor, penalty: float, ground_truth: float, steps: int) -> Tensor:
    r"""Return the fit after `steps` of kernel ridge regression, each on labels mixed with the last fit.

    .. math:: f_1 = H y, \qquad f_\tau = H (a y + (1 - a) f_{\tau - 1}), \qquad H = K (K + \lambda I)^{-1}

    Parameters
    ----------
    kernel : Tensor, shape (n, n)
        K, symmetric and positive semi-definite.
    y : Tensor, shape (n,) or (n, outputs)
    penalty : float
        lambda, above 0.
    ground_truth : float
        a.
    steps : int
        1 or more.

    References
    ----------
    K. Borup and L. N. Andersen, NeurIPS 2021, arXiv:2102.13088.

    Examples
    --------
    >>> kernel = torch.diag(torch.tensor([1.0, 3.0]))
    >>> kernel_self_distillation(kernel, torch.ones(2), 1.0, 0.0, 2).tolist()
    [0.25, 0.5625]
    """
    smoother = torch.linalg.solve(kernel + penalty * torch.eye(len(kernel), dtype=kernel.dtype), kernel).mT
    fit = smoother @ y
    for _ in range(steps - 1):
        fit = smoother @ (ground_truth * y + (1.0 - ground_truth) * fit)
    return fit


def spectral_filter(eigenvalue: Tensor, penalty: float, ground_truth: float, steps: int) -> Tensor:
    r"""Return by how much an eigenvector of the kernel is kept: the closed form of `kernel_self_distillation`.

    .. math:: b_\tau = s (a + (1 - a) b_{\tau - 1}) = \frac{a s}{1 - (1 - a) s} \left(1 - ((1 - a) s)^{\tau - 1}\right)
        + s ((1 - a) s)^{\tau - 1}, \qquad s = \frac{k}{k + \lambda}

    For many steps that is k / (k + lambda / a): ridge regression with a larger penalty.

    Parameters
    ----------
    eigenvalue : Tensor
        k.
    penalty, ground_truth, steps
        As there.

    Examples
    --------
    >>> spectral_filter(torch.tensor([1.0, 3.0]), 1.0, 0.0, 2).tolist()
    [0.25, 0.5625]
    """
    s = eigenvalue / (eigenvalue + penalty)
    power = ((1.0 - ground_truth) * s) ** (steps - 1)
    return ground_truth * s / (1.0 - (1.0 - ground_truth) * s) * (1.0 - power) + s * power


def optimal_weight(y: Tensor, teacher: Tensor, student: Tensor) -> float:
    r"""Return the weight of the labels at which the squared error on held-out data is least.

    .. math:: a^* = \frac{\langle y - p_0, p_1 - p_0 \rangle}{\lVert p_1 - p_0 \rVert^2}

    For predictions that are linear in a (kernel ridge regression: exactly), which the teacher gives at a = 1 and a student
    of a = 0 at the other end.

    Parameters
    ----------
    y : Tensor
        Labels of the held-out data.
    teacher, student : Tensor
        p_1 and p_0, of the shape of y.

    Examples
    --------
    >>> optimal_weight(torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([0.0]))
    0.5
    """
    apart = (teacher - student).flatten()
    return float((y - student).flatten() @ apart / (apart @ apart))
