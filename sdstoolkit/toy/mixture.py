"""Mixtures of Gaussians: densities whose scores are known at every noise level.

If x_0 ~ sum_k w_k N(mu_k, S_k) and x_t = alpha x_0 + sigma eps, then x_t is a mixture too,

    p_t(x_t) = sum_k w_k N(x_t; alpha mu_k, V_k),   V_k = alpha^2 S_k + sigma^2 I,

and with the responsibilities rho_k = P(k | x_t) the posterior means are

    E[eps | x_t] = sigma sum_k rho_k V_k^-1 (x_t - alpha mu_k) = -sigma grad log p_t(x_t)
    E[x_0 | x_t] = sum_k rho_k (mu_k + alpha S_k V_k^-1 (x_t - alpha mu_k))

(Bishop, Pattern Recognition and Machine Learning, 2006, sections 2.3.3 and 2.3.9). Both are
computed as they stand, so neither end of the schedule divides by zero. S_k = Q_k diag(l_k) Q_k^T
is decomposed once; a noise level then only shifts the eigenvalues.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdstoolkit._typing import Matrices, Rows, State
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Schedule
from sdstoolkit.prediction import Epsilon, Parameterization
from sdstoolkit.rng import generators
from sdstoolkit.toy.exact import ExactScore, Moments

Numbers = float | Sequence[float] | Sequence[Sequence[float]] | Tensor


class Mixture(nn.Module):
    """A mixture of K Gaussians in D dimensions, p(x) = sum_k w_k N(x; mu_k, S_k).

    Everything is computed in float64 and returned in the argument's dtype.

    Args:
        means: mu, [K, D].
        std: standard deviations, one for all, [K], or [K, D] for an axis each; above 0.
        covariances: S instead of std, [D, D] or [K, D, D], positive definite.
        weights: w, [K], not negative, summing to 1; equal by default.
        shape: of one sample if it is not [D]; an image is [c, h, w] with c h w = D.

    Raises:
        ValueError: shapes that do not fit, a covariance that is not positive definite, weights
            that are no distribution, or not exactly one of std and covariances.
    """

    means: Tensor
    spread: Tensor
    basis: Tensor | None
    log_weights: Tensor

    def __init__(
        self,
        means: Numbers,
        std: Numbers | None = None,
        covariances: Numbers | Sequence[Sequence[Sequence[float]]] | None = None,
        weights: Numbers | None = None,
        *,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        mu = torch.as_tensor(means, dtype=torch.float64)
        if mu.ndim != 2:
            raise ValueError(f"means has shape {list(mu.shape)}; expected [K, D].")
        K, D = mu.shape
        if (std is None) == (covariances is None):
            raise ValueError("A mixture needs its spread: give one of std and covariances.")
        if weights is None:
            weights = mu.new_full((K,), 1 / K)
        w = torch.as_tensor(weights, dtype=torch.float64)
        if w.shape != (K,) or not ((w >= 0).all() and abs(w.sum() - 1) < 1e-6):
            raise ValueError(f"weights = {w.tolist()} are not {K} shares that sum to 1.")
        self.shape = (D,) if shape is None else tuple(shape)
        if math.prod(self.shape) != D:
            raise ValueError(f"shape = {list(self.shape)} does not hold D = {D} numbers.")
        spread, basis = _axes(std, K, D) if covariances is None else _eigen(covariances, K, D)
        if not (spread > 0).all():
            raise ValueError("The mixture has a std or an eigenvalue that is not above 0.")
        self.register_buffer("means", mu)
        self.register_buffer("spread", spread)  # eigenvalues l, [K, D]
        self.register_buffer("basis", basis)  # eigenvectors Q, [K, D, D], or None for the axes
        self.register_buffer("log_weights", w.log())

    def log_prob(self, x: Tensor) -> Rows:
        """The log density log p(x), one number a row, for x [n, *shape]."""
        return self._at(x).log_prob.to(x.dtype)

    def score(self, x: Tensor) -> State:
        """The score grad log p(x), for x [n, *shape].

        Many rows go by one matrix product, to 1e-10: log w_k N(x; ...) is linear in the features
        x_i x_j, x_i and 1, so that no [n, K, D] is ever made.
        """
        flat = x.double().reshape(len(x), -1)
        if self._suits_features(flat):
            return self._by_features(flat).reshape(x.shape).to(x.dtype)
        at = self._at(x)
        return -torch.einsum("nk,nkd->nd", at.share, at.pull).reshape(x.shape).to(x.dtype)

    def hessian(self, x: Tensor) -> Matrices:
        """The matrix of second derivatives of log p(x), [n, D, D], for x [n, *shape].

        sum_k rho_k (g_k g_k^T - S_k^-1) - g g^T,   g_k = -S_k^-1 (x - mu_k),   g = sum_k rho_k g_k
        """
        at = self._at(x)
        precision = torch.diag_embed(1 / self.spread)
        if self.basis is not None:
            precision = self.basis @ precision @ self.basis.mT
        g = torch.einsum("nk,nkd->nd", at.share, at.pull)
        inner = torch.einsum("nk,nkd,nke->nde", at.share, at.pull, at.pull)
        inner = inner - torch.einsum("nk,kde->nde", at.share, precision)
        return (inner - g[:, :, None] * g[:, None, :]).to(x.dtype)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> State:
        """Draws, [n, *shape]; the seed names the whole set."""
        (rng,) = generators([seed], "mixture")
        k = torch.multinomial(self.log_weights.exp().cpu(), n, replacement=True, generator=rng)
        z = torch.randn((n, self.means.shape[1]), generator=rng, dtype=torch.float64)
        k, z = k.to(self.means.device), z.to(self.means.device)
        z = self.spread.sqrt()[k] * z
        if self.basis is not None:
            z = torch.einsum("nde,ne->nd", self.basis[k], z)
        return (self.means[k] + z).reshape(n, *self.shape).to(dtype)

    def noised(self, alpha: float, sigma: float) -> "Mixture":
        """The law of alpha x + sigma eps, a mixture again."""
        law = deepcopy(self)
        law.means = alpha * self.means
        law.spread = alpha**2 * self.spread + sigma**2
        return law

    def under(
        self, schedule: Schedule, parameterization: Parameterization | None = None
    ) -> ExactScore:
        """The exact score model of this density under a schedule.

        A condition may hold "weights", [rows, K]: the components' weights for each row in place
        of the mixture's own. A call costs K D^2 multiplications a row.

        Args:
            schedule: the noise schedule.
            parameterization: what its `output` means; Epsilon by default.
        """
        return ExactScore(self, schedule, parameterization or Epsilon())

    def moments(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, condition: Condition | None = None
    ) -> Moments:
        """What x_t tells; arguments as `posterior`, the condition as `under` says.

        Raises:
            ValueError: another condition than "weights".
        """
        log_weights = None
        if condition:
            K = len(self.means)
            if set(condition) != {"weights"} or condition["weights"].shape[1:] != (K,):
                raise ValueError(f'{condition} is not the condition "weights" of [rows, {K}].')
            log_weights = condition["weights"].double().log()
        at = self.posterior(x, alpha, sigma, log_weights)
        x_0, pull = (
            torch.einsum("nk,nkd->nd", at.share, v).reshape(x.shape) for v in (at.mean, at.pull)
        )
        return Moments(at.log_prob, x_0, pull)

    def posterior(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor | None = None
    ) -> "Posterior":
        """What is known about x_0 and eps from x_t.

        Args:
            x: x_t, [n, *shape].
            alpha: [n] or [n, 1, ..., 1].
            sigma: the same.
            log_weights: of the components, [n, K]; the mixture's own by default.
        """
        n = len(x)
        alpha, sigma = (v.double().reshape(n, 1, 1) for v in (alpha, sigma))
        log_weights = self.log_weights if log_weights is None else log_weights
        away = x.double().reshape(n, 1, -1) - alpha * self.means  # x_t - alpha mu_k, [n, K, D]
        if self.basis is not None:
            away = torch.einsum("kde,nkd->nke", self.basis, away)
        variance = alpha**2 * self.spread + sigma**2
        squares = (away.square() / variance + (2 * math.pi * variance).log()).sum(-1)
        joint = log_weights - squares / 2  # log w_k N(x_t; ...), [n, K]
        log_prob = joint.logsumexp(-1)
        pull, shift = away / variance, alpha * self.spread * away / variance
        if self.basis is not None:
            pull, shift = (torch.einsum("kde,nke->nkd", self.basis, v) for v in (pull, shift))
        share = (joint - log_prob[:, None]).exp()
        return Posterior(log_prob, share, pull, self.means + shift)

    def _suits_features(self, x: Tensor) -> bool:
        """Whether there is work to save, and x is so near that squares lose no digits.

        What is to be differentiated goes the other way, which needs no buffers.
        """
        if x.requires_grad or len(x) < 64 or len(x) * self.means.numel() < 2**15:
            return False
        centre = self._centre()
        reach = torch.maximum((x - centre).abs().max(), (self.means - centre).abs().max())
        return bool(reach.square() * x.shape[1] < 1e5 * self.spread.min())

    def _centre(self) -> Tensor:
        return self.log_weights.exp() @ self.means

    def _by_features(self, x: Tensor) -> Tensor:
        """The score of [n, D]: with log w_k N(x; ...) = c_k . phi(x) it is rho C dphi / dx."""
        D, centre = x.shape[1], self._centre()
        mu, columns = self.means - centre, (x - centre).T.contiguous()
        constant = self.log_weights - (2 * math.pi * self.spread).log().sum(1) / 2
        if self.basis is None:
            squares, linear = -1 / (2 * self.spread), mu / self.spread
        else:
            precision = (self.basis / self.spread[:, None, :]) @ self.basis.mT
            linear = (precision @ mu[..., None])[..., 0]
            i, j = torch.triu_indices(D, D, device=x.device)
            squares = torch.where(i == j, -precision[:, i, j] / 2, -precision[:, i, j])
        constant = constant - (linear * mu).sum(1) / 2
        C = torch.cat([squares, linear, constant[:, None]], 1)
        K, F = C.shape
        width = max(16, 2**17 // (K + F))  # columns at a time: it stays in the cache
        phi, slope = (columns.new_ones(F, width) for _ in range(2))
        joint, share = (columns.new_empty(K, width) for _ in range(2))
        scores = torch.empty_like(columns)
        for part, score in zip(columns.split(width, 1), scores.split(width, 1), strict=True):
            if part.shape[1] < width:  # the last of them
                left = part.shape[1]
                phi, slope, joint, share = (v[:, :left] for v in (phi, slope, joint, share))
            if self.basis is None:
                torch.mul(part, part, out=phi[:D])
            else:
                for d, block in enumerate(phi[: -1 - D].split(list(range(D, 0, -1)))):
                    torch.mul(part[d], part[d:], out=block)
            phi[-1 - D : -1] = part
            torch.softmax(torch.mm(C, phi, out=joint), 0, out=share)
            torch.mm(C.T, share, out=slope)
            score.copy_(slope[-1 - D : -1])
            if self.basis is None:
                score.addcmul_(slope[:D], part, value=2)
            else:
                for d, block in enumerate(slope[: -1 - D].split(list(range(D, 0, -1)))):
                    score[d:].addcmul_(block, part[d])
                    score[d].add_(block.mul_(part[d:]).sum(0))
        return scores.T

    def _at(self, x: Tensor) -> "Posterior":
        return self.posterior(x, x.new_ones(len(x)), x.new_zeros(len(x)))


class Gaussian(Mixture):
    """A Gaussian in D dimensions, a mixture of one component.

        log p(x) = -(x - mu)^T S^-1 (x - mu) / 2 - log det(2 pi S) / 2,   score = -S^-1 (x - mu)

    Args:
        mean: mu, [D].
        std: standard deviation, a number or [D]; above 0.
        covariance: S instead of std, [D, D], positive definite.
        shape: of one sample if it is not [D].

    Raises:
        ValueError: as `Mixture`.
    """

    def __init__(
        self,
        mean: Sequence[float] | Tensor,
        std: float | Sequence[float] | Tensor | None = None,
        covariance: Sequence[Sequence[float]] | Tensor | None = None,
        *,
        shape: Sequence[int] | None = None,
    ) -> None:
        mu = torch.as_tensor(mean, dtype=torch.float64)
        if mu.ndim != 1:
            raise ValueError(f"mean has shape {list(mu.shape)}; expected [D].")
        if std is not None:
            s = torch.as_tensor(std, dtype=torch.float64)
            if s.shape not in ((), mu.shape):
                raise ValueError(f"std has shape {list(s.shape)}; expected [] or [{len(mu)}].")
            std = s.expand(1, len(mu))
        super().__init__(mu[None], std, covariance, shape=shape)

    @property
    def mean(self) -> Tensor:
        """The mean mu, float64 [D]."""
        return self.means[0]

    @property
    def covariance(self) -> Tensor:
        """The covariance S, float64 [D, D]."""
        if self.basis is None:
            return self.spread[0].diag()
        return self.basis[0] * self.spread[0] @ self.basis[0].T


class Posterior(NamedTuple):
    """What x_t tells, a component at a time.

    Attributes:
        log_prob: log p_t(x_t), [n].
        share: rho_k = P(k | x_t), [n, K].
        pull: V_k^-1 (x_t - alpha mu_k), [n, K, D].
        mean: E[x_0 | x_t, k], [n, K, D].
    """

    log_prob: Tensor
    share: Tensor
    pull: Tensor
    mean: Tensor


def _axes(std: Numbers | None, K: int, D: int) -> tuple[Tensor, None]:
    """Eigenvalues [K, D] of axis-aligned covariances."""
    s = torch.as_tensor(std, dtype=torch.float64)
    if s.shape not in ((), (K,), (K, D)):
        raise ValueError(f"std has shape {list(s.shape)}; expected [], [{K}] or [{K}, {D}].")
    s = s[:, None] if s.ndim == 1 else s
    return torch.where(s > 0, s.square(), s).expand(K, D), None


def _eigen(covariances: object, K: int, D: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues [K, D] and eigenvectors [K, D, D] of full covariances."""
    S = torch.as_tensor(covariances, dtype=torch.float64)
    if S.shape not in ((D, D), (K, D, D)) or not torch.allclose(S, S.mT):
        raise ValueError(
            f"covariances of shape {list(S.shape)} are not symmetric matrices [{D}, {D}] or "
            f"[{K}, {D}, {D}]."
        )
    spread, basis = torch.linalg.eigh(S.expand(K, D, D))
    return spread, basis
