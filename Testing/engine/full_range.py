"""`python -m Testing.engine.full_range`: the error of the largest sums in 8-bit integers."""

import torch

from SAM2PropagateLib.engine.int8_linear import Int8Linear

if __name__ == "__main__":
    linear = torch.nn.Linear(64, 32, bias=False)
    torch.nn.init.ones_(linear.weight)
    linear.weight.data[::2] *= -1
    values = torch.full((8, 64), 3.0)
    values[0, 0] = 0.0
    with torch.inference_mode():
        print(float((Int8Linear(linear)(values) - linear(values)).norm() / linear(values).norm()))
