"""What a score says about a law, each with its standard error.

With s = grad log p and draws x_1, ..., x_n of p (Hyvarinen, 2005,
https://www.jmlr.org/papers/v6/hyvarinen05a.html; Liu, Lee and Jordan, 2016,
https://arxiv.org/abs/1602.03253; Chwialkowski, Strathmann and Gretton, 2016,
https://arxiv.org/abs/1602.02964),

    E[s] = 0,   I = E[s s^T] = -E[grad s],   E[s phi^T + (grad phi)^T] = 0,

the last for every smooth phi that grows slower than 1 / p (Stein's identity; phi = s is the one
before it). They hold if x comes from p and s is p's score, and so they test both. Each is an
average over rows, whose standard error is the rows' standard deviation over the root of n.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

__all__ = [
    "Estimate",
    "GoodnessOfFit",
    "anomaly",
    "fisher_divergence",
    "fisher_information",
    "fisher_metric",
    "fisher_trace",
    "hessian_identity",
    "kernel_stein",
    "kernel_stein_test",
    "mean_score",
    "natural_gradient",
    "roc_auc",
    "stein_identity",
]

Field = Callable[[Tensor], Tensor]
LogDensity = Callable[[Tensor, Tensor], Tensor]


class Estimate(NamedTuple):
    """A value and its standard error, tensors of the same shape."""

    value: Tensor
    error: Tensor

    def z(self, truth: float | Tensor = 0.0) -> Tensor:
        """How many standard errors the value is from the truth, with its sign."""
        return (self.value - truth) / self.error


def mean_score(score: Field, x: Tensor) -> Estimate:
    """The mean of the score, E[s(x)] = 0 under its own law. One score evaluation a row.

    Args:
        score: s, [n, D] to [n, D].
        x: draws, [n, D], at least two.

    Returns:
        [D].

    Raises:
        ValueError: fewer than two rows, or a score that is not finite.
    """
    return _mean(_score(score, x))


def fisher_information(score: Field, x: Tensor) -> Estimate:
    """The Fisher information of location, I = E[s s^T], [D, D]; D / sigma^2 is its trace for
    N(mu, sigma^2 I). Arguments, cost and errors are `mean_score`'s.
    """
    s = _score(score, x)
    return _mean(s[:, :, None] * s[:, None, :])


def fisher_trace(score: Field, x: Tensor) -> Estimate:
    """The trace of the Fisher information, E|s|^2, a scalar; as `fisher_information`."""
    return _mean(_score(score, x).square().sum(1))


def fisher_metric(log_prob: LogDensity, theta: Tensor, x: Tensor) -> Estimate:
    """The Fisher metric of a parametric family, g_ij = E[d_i log p(x; theta) d_j log p(x; theta)].

    One backward pass a row, batched.

    Args:
        log_prob: log p(x; theta) of theta [P] and one point [D], a scalar, written in torch.
        theta: the parameters, [P].
        x: draws of p(.; theta), [n, D].

    Returns:
        [P, P]. Draws of another law give the empirical Fisher matrix, which is no metric of the
        family.

    Raises:
        ValueError: fewer than two rows, or a derivative that is not finite.
    """
    u = _parameter_scores(log_prob, theta, x)
    return _mean(u[:, :, None] * u[:, None, :])


def natural_gradient(
    log_prob: LogDensity, theta: Tensor, x: Tensor, gradient: Tensor, *, damping: float = 0.0
) -> Estimate:
    """The gradient in the Fisher metric, G^-1 gradient (Amari, 1998).

    The standard error is that of the metric's estimate carried through the inverse to first
    order, with v = G^-1 gradient: the rows are G^-1 u_i (u_i . v).

    Args:
        log_prob: as in `fisher_metric`.
        theta: the parameters, [P].
        x: draws of p(.; theta), [n, D].
        gradient: of a loss by theta, [P].
        damping: added to the metric's diagonal, at least 0.

    Returns:
        [P].

    Raises:
        ValueError: as `fisher_metric`; or the metric is singular, as it is for a family with
            more parameters than it needs.
    """
    u = _parameter_scores(log_prob, theta, x)
    G = (u.mT @ u) / len(u) + damping * torch.eye(len(theta), dtype=u.dtype, device=u.device)
    ends = torch.linalg.eigvalsh(G)
    if not ends[0] > 1e-12 * ends[-1]:
        raise ValueError(
            f"The Fisher metric is singular, its eigenvalues go from {ends[0]:.3g} to "
            f"{ends[-1]:.3g}; drop a parameter or give damping > 0."
        )
    v = torch.linalg.solve(G, gradient.to(G.dtype))
    rows = torch.linalg.solve(G, (u * (u @ v)[:, None]).mT).mT
    return Estimate(v, rows.std(0) / math.sqrt(len(u)))


def hessian_identity(score: Field, x: Tensor, hessian: Field | None = None) -> Estimate:
    """E[grad s] + E[s s^T], [D, D]: zero for a smooth law, for E[Hessian] is *minus* E[s s^T].

    At a kink (a Laplace law's mean) the Hessian misses a point mass, and the identity fails.
    D backward passes a row without a closed form of the Hessian.

    Args:
        score: s, [n, D] to [n, D].
        x: draws, [n, D].
        hessian: grad s, [n, D] to [n, D, D]; by automatic differentiation if it is not given.

    Raises:
        ValueError: as `mean_score`.
    """
    s = _score(score, x)
    H = _jacobian(score, x) if hessian is None else hessian(x)
    return _mean(H + s[:, :, None] * s[:, None, :])


def stein_identity(score: Field, x: Tensor, phi: Field) -> Estimate:
    """Stein's identity, E[s_i phi_j + d_i phi_j] = 0, [D, M].

    One score evaluation and M backward passes through phi a row.

    Args:
        score: s, [n, D] to [n, D].
        x: draws, [n, D].
        phi: a smooth function, [n, D] to [n, M], whose row i depends on row i only.

    Raises:
        ValueError: as `mean_score`.
    """
    s = _score(score, x)
    return _mean(s[:, :, None] * phi(x)[:, None, :] + _jacobian(phi, x).mT)


def fisher_divergence(score: Field, other: Field, x: Tensor) -> Estimate:
    """The Fisher divergence D(p | q) = E_p |grad log p - grad log q|^2 / 2, a scalar.

    Zero if and only if the scores agree wherever p is; not symmetric. One evaluation of each a
    row. It sees only where p is: two laws that differ in the weights of far modes have nearly the
    same scores and a divergence near zero.

    Args:
        score: p's score, [n, D] to [n, D].
        other: q's score, likewise.
        x: draws of p, [n, D].

    Raises:
        ValueError: as `mean_score`.
    """
    away = _score(score, x) - _score(other, x)
    return _mean(away.square().sum(1) / 2)


def kernel_stein(score: Field, x: Tensor, *, scale: float | None = None) -> Estimate:
    """The squared kernel Stein discrepancy, a U-statistic; zero in the mean if x comes from p.

        u(x, y) = s.s' k + s.grad_y k + s'.grad_x k + tr grad_x grad_y k,
        k(x, y) = (1 + |x - y|^2 / c^2)^(-1/2)

    The kernel is the inverse multiquadric, for a Gaussian's tails are too light to notice mass
    that escapes (Gorham and Mackey, 2017, https://arxiv.org/abs/1703.01717). n score evaluations
    and n^2 D operations. Where x does come from p the statistic is degenerate and its standard
    error is too small; `kernel_stein_test` is for that.

    Args:
        score: s, [n, D] to [n, D].
        x: draws, [n, D].
        scale: c, above 0; the median distance by default.

    Raises:
        ValueError: as `mean_score`, or scale is not above 0.
    """
    u = _stein_kernel(score, x, scale)
    n = len(u)
    rows = u.sum(1) / (n - 1)
    return Estimate(rows.mean(), 2 * rows.std() / math.sqrt(n))


class GoodnessOfFit(NamedTuple):
    """What a test says.

    Attributes:
        statistic: the squared discrepancy.
        p_value: how often a draw of p itself would have as large a one, in (0, 1].
        critical: the statistic's 95 % quantile under p.
    """

    statistic: float
    p_value: float
    critical: float


def kernel_stein_test(
    score: Field, x: Tensor, *, scale: float | None = None, bootstraps: int = 1000, seed: int = 0
) -> GoodnessOfFit:
    """Could x have come from p? The bootstrap test of the kernel Stein discrepancy.

        S_b = sum_{i != j} w_i w_j u(x_i, x_j),   w ~ Multinomial(n; 1/n, ..., 1/n) / n - 1/n,

    is distributed as the statistic is under p (Liu, Lee and Jordan, 2016); rejecting where p_value
    < 0.05 is wrong for 5 % of honest samples. The rows must be independent: a Markov chain has to
    be thinned first. n score evaluations, and bootstraps n^2 operations.

    Args:
        score: s, [n, D] to [n, D]; p's constant is not needed.
        x: draws, [n, D]; memory goes with n^2.
        scale: as `kernel_stein`.
        bootstraps: how many, at least 1.
        seed: names their weights.

    Raises:
        ValueError: as `kernel_stein`, or bootstraps is below 1.
    """
    if bootstraps < 1:
        raise ValueError(f"bootstraps = {bootstraps} is not at least 1.")
    u = _stein_kernel(score, x, scale)
    n = len(u)
    rng = torch.Generator().manual_seed(seed)
    pick = torch.randint(n, (bootstraps, n), generator=rng)
    w = torch.zeros(bootstraps, n, dtype=u.dtype)
    w.scatter_add_(1, pick, torch.ones_like(w))
    w = ((w - 1) / n).to(u.device)
    null = ((w @ u) * w).sum(1)
    statistic = u.sum() / (n * (n - 1))
    p_value = (1 + int((null >= statistic).sum())) / (1 + bootstraps)
    return GoodnessOfFit(float(statistic), p_value, float(null.quantile(0.95)))


def anomaly(score: Field, x: Tensor, sigma: float) -> Tensor:
    """The score-norm anomaly score of rows, sigma^2 |s(x)|^2 / D, [n].

        E |s(x)|^2 = trace I <= D / sigma^2   over p's own draws, hence at most 1 in the mean

    Large means that a step to likelier points is long, as it is in the tails of a law that falls
    as a Gaussian does; with the score of a noised law (sigma > 0), far away it is the squared
    distance to the data over D sigma^2. It is a bad detector where the log density is flat and
    yet low: in the valley between two modes and on top of a small spurious one the score is 0, in
    a heavy tail it falls towards 0 (Student's), and it never tells which of two modes is heavier.
    The claim that an anomaly has a *small* score holds in such places only.

    Args:
        score: s, [n, D] to [n, D]; of the law noised by sigma.
        x: what is judged, [n, *shape].
        sigma: the noise level that the score is of, above 0.

    Raises:
        ValueError: sigma is not above 0.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma = {sigma} is not a finite number above 0.")
    return sigma**2 * score(x).flatten(1).square().mean(1)


def roc_auc(inside: Tensor, outside: Tensor) -> Estimate:
    """The probability that an anomaly scores above a normal row, ties counted half.

        AUC = P(outside > inside) + P(outside = inside) / 2

    with DeLong's standard error (DeLong, DeLong and Clarke-Pearson, 1988).

    Args:
        inside: scores of normal rows, [n].
        outside: scores of anomalies, [m].

    Raises:
        ValueError: fewer than two of either.
    """
    if min(inside.numel(), outside.numel()) < 2:
        raise ValueError(f"{len(inside)} and {len(outside)} rows are too few, give two of each.")
    wins = (outside[:, None] > inside).double() + (outside[:, None] == inside).double() / 2
    by_row, by_column = wins.mean(1), wins.mean(0)
    variance = by_row.var() / len(by_row) + by_column.var() / len(by_column)
    return Estimate(wins.mean(), variance.sqrt())


def _mean(rows: Tensor) -> Estimate:
    return Estimate(rows.mean(0), rows.std(0) / math.sqrt(len(rows)))


def _score(score: Field, x: Tensor) -> Tensor:
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x has shape {list(x.shape)}; expected [n, D] with two rows or more.")
    s = score(x)
    if s.shape != x.shape or not s.isfinite().all():
        raise ValueError(
            f"The score returned {list(s.shape)} for {list(x.shape)} with "
            f"{int((~s.isfinite()).sum())} numbers not finite; expected finite ones of x's shape."
        )
    return s


def _jacobian(f: Field, x: Tensor) -> Tensor:
    """d f_j / d x_i as [n, M, D], row by row."""
    found: Tensor = vmap(jacrev(lambda row: f(row[None])[0]))(x)
    return found


def _parameter_scores(log_prob: LogDensity, theta: Tensor, x: Tensor) -> Tensor:
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} rows; expected two or more.")
    u: Tensor = vmap(grad(log_prob), in_dims=(None, 0))(theta, x)
    if not u.isfinite().all():
        raise ValueError("The derivative of log_prob by theta is not finite in some row.")
    return u


def _stein_kernel(score: Field, x: Tensor, scale: float | None) -> Tensor:
    """u(x_i, x_j) for i != j and 0 on the diagonal, [n, n]."""
    s = _score(score, x)
    squares = torch.cdist(x, x).square()
    if scale is None:
        off = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        c = squares[off].sqrt().median()
    else:
        c = torch.as_tensor(scale, dtype=x.dtype)
    if not 0 < c < math.inf:
        raise ValueError(f"The kernel's scale is {float(c):.3g}; it must be finite and above 0.")
    base = 1 + squares / c**2
    k, slope, D = base.rsqrt(), base.pow(-1.5) / c**2, x.shape[1]
    own = (s * x).sum(1)
    cross = s @ x.mT  # s_i . x_j
    # grad_y k = slope (x - y), grad_x k = -slope (x - y)
    along = (own[:, None] - cross) + (own[None, :] - cross.mT)
    trace = slope * D - 3 * squares * base.pow(-2.5) / c**4
    u = (s @ s.mT) * k + slope * along + trace
    return u.fill_diagonal_(0)
