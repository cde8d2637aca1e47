"""What a camera does to an image, as linear maps: for inverse problems.

    y = A x_0 + sigma_y n

x_0 is a picture in the model's range, -1 to 1. Every operator here knows A, its adjoint A^T, and
the inverse of A A^T + c, which is diagonal in pixels, in blocks, in colours or in frequencies: all
that a posterior needs.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Blur", "Downsample", "Grey", "Mask", "Operator"]


class Operator(ABC):
    """A linear map of images; a new one writes `__call__`, `adjoint` and `solve`."""

    @abstractmethod
    def __call__(self, x_0: Tensor) -> Tensor:
        """A x_0, for x_0 [n, c, h, w]."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""

    @abstractmethod
    def solve(self, y: Tensor, c: float | Tensor) -> Tensor:
        """(A A^T + c)^-1 y; where that is singular at c = 0, the least-squares one.

        Args:
            y: measurements.
            c: at least 0, a number or [n, 1, 1, 1].
        """

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^T (A A^T)^-1 y, the smallest x_0 that explains y."""
        return self.adjoint(self.solve(y, 0.0))


class Mask(Operator):
    """What is seen of an image.

        A x_0 = m x_0,   m = 1 where it is known

    Args:
        known: [1 or n, 1 or c, h, w], of zeros and ones.

    Raises:
        ValueError: other values.
    """

    def __init__(self, known: Tensor) -> None:
        if known.ndim != 4 or not bool(((known == 0) | (known == 1)).all()):
            raise ValueError(
                f"The mask {list(known.shape)} is not zeros and ones, [n, 1, h, w]; threshold it."
            )
        self.known = known

    def __call__(self, x_0: Tensor) -> Tensor:
        """The image, zero where it is not known."""
        return self.known.to(x_0) * x_0

    def adjoint(self, y: Tensor) -> Tensor:
        """The same."""
        return self.known.to(y) * y

    def solve(self, y: Tensor, c: float | Tensor) -> Tensor:
        """y / (m + c), zero where nothing is known."""
        known = self.known.to(y)
        if not _positive(c):
            return known * y
        return y / (known + torch.as_tensor(c, dtype=y.dtype, device=y.device))


class Grey(Operator):
    """Colour to grey, by the luma of television.

    A x_0 = 0.299 red + 0.587 green + 0.114 blue
    """

    WEIGHTS = (0.299, 0.587, 0.114)

    def __call__(self, x_0: Tensor) -> Tensor:
        """The grey image, [n, 1, h, w]."""
        return (x_0 * self._weights(x_0)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """[n, 3, h, w]."""
        return y * self._weights(y)

    def solve(self, y: Tensor, c: float | Tensor) -> Tensor:
        """y / (|weights|^2 + c)."""
        return y / (sum(w * w for w in self.WEIGHTS) + c)

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.WEIGHTS).reshape(3, 1, 1)


class Downsample(Operator):
    """Means over blocks of k x k pixels.

        A A^T = 1 / k^2

    Args:
        factor: k, at least 1.

    Raises:
        ValueError: such a factor; when called, a size that it does not divide.
    """

    def __init__(self, factor: int) -> None:
        if factor < 1:
            raise ValueError(f"factor is {factor}, expected at least 1.")
        self.factor = factor

    def __call__(self, x_0: Tensor) -> Tensor:
        """The small image, [n, c, h / k, w / k]."""
        h, w = x_0.shape[-2:]
        if h % self.factor or w % self.factor:
            raise ValueError(f"{h} x {w} pixels do not divide into blocks of {self.factor}.")
        return torch.nn.functional.avg_pool2d(x_0, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """The large image, every pixel a k^2-th of its block's."""
        k = self.factor
        return y.repeat_interleave(k, -2).repeat_interleave(k, -1) / k**2

    def solve(self, y: Tensor, c: float | Tensor) -> Tensor:
        """y / (1 / k^2 + c)."""
        return y / (1 / self.factor**2 + c)


class Blur(Operator):
    """A Gaussian blur that wraps around at the edges.

        A = F^-1 H F,   H the transform of the kernel, cut at 4 sigma and normalised

    Args:
        sigma: of the kernel in pixels, above 0.

    Raises:
        ValueError: such a sigma.
    """

    def __init__(self, sigma: float) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma is {sigma}, expected a finite number of pixels above 0.")
        self.sigma = sigma

    def __call__(self, x_0: Tensor) -> Tensor:
        """The blurred image."""
        return self._filter(x_0, self._gain(x_0))

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: the kernel is symmetric."""
        return self(y)

    def solve(self, y: Tensor, c: float | Tensor) -> Tensor:
        """y / (H^2 + c) at each frequency; zero where H is below 1e-6 at c = 0."""
        square = self._gain(y).square()
        if _positive(c):
            c = torch.as_tensor(c, dtype=y.dtype, device=y.device)
            return self._filter(y, 1 / (square + c))
        return self._filter(y, torch.where(square > 1e-12, 1 / square.clamp(min=1e-12), 0.0))

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=x.shape[-2:])

    def _gain(self, like: Tensor) -> Tensor:
        h, w = like.shape[-2:]
        rows, columns = self._kernel(h, like), self._kernel(w, like)
        return torch.fft.fft(rows).real[:, None] * torch.fft.rfft(columns).real

    def _kernel(self, side: int, like: Tensor) -> Tensor:
        reach = math.ceil(4 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=like.device)
        weight = torch.exp(-((at / self.sigma).to(like) ** 2) / 2)
        kernel = torch.zeros(side, device=like.device, dtype=like.dtype)
        return kernel.index_add(0, at % side, weight / weight.sum())


def _positive(c: float | Tensor) -> bool:
    return bool((torch.as_tensor(c) > 0).all())
