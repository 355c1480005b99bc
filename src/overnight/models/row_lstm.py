"""An LSTM that reads an image row by row and names its class: MNIST-LSTM of You et al. 2019 (arXiv 1901.08256).

Shape suffixes: T rows (time), B images, W pixels of a row, H hidden, K classes.
"""

import torch  # noqa: F401 (examples)
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import DenseGates
from overnight.nn.recurrence import Path, Recurrent


class RowLSTM(nn.Module):
    """Rows as steps → the last h → logits of the classes.

    With the defaults, 28 rows of 28 pixels and 128 units, it has 81,674 parameters, with one bias a gate.

    Args:
        row_size: W.
        hidden_size: H.
        classes: K.
        mean, std: of the pixels in [0, 1], by which they are normalised; 0 and 1 leave them as they are.
        forget_bias: start of the forget gate's bias.
        init: of recurrent weights (see ``overnight.nn.init``).
        path: see ``overnight.nn.recurrence.Recurrent``.

    Raises:
        UserError: if a size is less than 1 or ``std`` is not above 0, and in a call for rows of another width.

    Example:
        >>> model = RowLSTM()
        >>> model(torch.zeros(5, 28, 28, dtype=torch.uint8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        row_size: int = 28,
        hidden_size: int = 128,
        classes: int = 10,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        forget_bias: float = 1.0,
        init: str = "uniform",
        path: Path = "auto",
    ) -> None:
        super().__init__()
        if classes < 1 or not std > 0:
            raise UserError(f"classes={classes} and std={std} cannot work.", "Take at least 1 and a number above 0.")
        self.row_size, self.mean, self.std = row_size, mean, std
        self.recurrent = Recurrent(DenseGates(row_size, hidden_size, init=init, forget_bias=forget_bias), path)
        self.output = nn.Linear(hidden_size, classes)

    def forward(self, image_BTW: Tensor) -> Tensor:
        """Logits [B, K] of images, uint8 or floating point in [0, 255]."""
        if image_BTW.dim() != 3 or image_BTW.shape[2] != self.row_size:
            shape = tuple(image_BTW.shape)
            raise UserError(f"Images of shape {shape} have no rows of {self.row_size} pixels.", "Set model.row_size.")
        dtype = self.output.weight.dtype
        x_TBW = (image_BTW.transpose(0, 1).to(dtype) / 255 - self.mean) / self.std
        _, (h_BH, _) = self.recurrent(x_TBW)
        logits_BK: Tensor = self.output(h_BH.to(dtype))
        return logits_BK
