"""The row LSTM is ``nn.LSTM`` over rows; the task's loss is a sum, with smoothing or without."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overnight.data.images.batches import ImageBatch
from overnight.errors import UserError
from overnight.models.row_lstm import RowLSTM
from overnight.nn.gates import DenseGates
from overnight.tasks.classification import ClassificationTask


def test_it_is_an_lstm_over_rows() -> None:
    torch.manual_seed(0)
    model, lstm = RowLSTM(mean=0.1, std=0.3), nn.LSTM(28, 128)
    assert sum(p.numel() for p in model.parameters()) == 81_674
    gates = model.recurrent.gates
    assert isinstance(gates, DenseGates)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(gates.input_to_gates())
        lstm.weight_hh_l0.copy_(gates.hidden_to_gates())
        lstm.bias_ih_l0.copy_(gates.bias)
        lstm.bias_hh_l0.zero_()
    image = torch.randint(256, (5, 28, 28), dtype=torch.uint8)
    _, (h, _) = lstm((image.float().transpose(0, 1) / 255 - 0.1) / 0.3)
    torch.testing.assert_close(model(image), model.output(h[0]))


def test_the_loss_is_a_sum_and_smoothing_is_not_logged() -> None:
    torch.manual_seed(0)
    model = RowLSTM(6, 8, classes=3)
    batch = ImageBatch(torch.randint(256, (7, 4, 6), dtype=torch.uint8), torch.arange(7) % 3)
    plain, smooth = ClassificationTask(model)(batch, {}), ClassificationTask(model, label_smoothing=0.2)(batch, {})
    log_p = F.log_softmax(model(batch.image_BHW), 1)
    right = -log_p[range(7), batch.label_B].sum()
    torch.testing.assert_close(plain.total, right)
    assert (plain.count, plain.objective, plain.carry) == (7, None, {})
    torch.testing.assert_close(smooth.total, right)
    assert smooth.objective is not None
    torch.testing.assert_close(smooth.objective, 0.8 * right - 0.2 / 3 * log_p.sum())


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="label_smoothing=1"):
        ClassificationTask(RowLSTM(), label_smoothing=1.0)
    with pytest.raises(UserError, match="classes=0"):
        RowLSTM(classes=0)
    with pytest.raises(UserError, match="no rows of 28 pixels"):
        RowLSTM()(torch.zeros(1, 28, 32))
