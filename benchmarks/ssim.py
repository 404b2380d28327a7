"""What does SSIM in 3-D cost, forward and backward: banded matrices against MONAI?

    python benchmarks/ssim.py                      # 64^3 and 96^3, one thread; prints a table
    python benchmarks/ssim.py --device cuda        # the same on a GPU

Runs are interleaved and the median is given, so that a busy moment of the machine hits both. On a CPU the process's own
time is taken, which other work on the machine changes least.
"""

import argparse
import time
from statistics import median

import torch
from _machine import main as describe_machine


def contestants() -> dict:
    """Name the losses, each a function of two images."""
    from monai.losses.ssim_loss import SSIMLoss

    from sulcnet.losses.ssim import ms_ssim, ssim_loss

    return {
        "sulcnet `ssim_loss`": lambda x, y: ssim_loss(x, y).value(),
        "sulcnet `ms_ssim`, 3 scales": lambda x, y: ms_ssim(x, y).value(),
        "MONAI `SSIMLoss`": SSIMLoss(3),
    }


def milliseconds(loss, x: torch.Tensor, y: torch.Tensor) -> float:
    """Time one forward and backward pass."""
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    begin = clock()
    loss(x.requires_grad_(), y).backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (clock() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--without-monai", action="store_true", help="leave out the slow one"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    describe_machine()
    losses = contestants()
    if args.without_monai:
        losses.pop("MONAI `SSIMLoss`")
    print(
        "| forward + backward, ms | "
        + " | ".join(f"{size}^3" for size in args.sizes)
        + " |\n|---|"
        + "---|" * len(args.sizes)
    )
    images = [
        torch.rand(2, 1, 1, size, size, size, device=args.device)
        for size in args.sizes
    ]
    taken = {name: [[] for _ in images] for name in losses}
    for repeat in range(args.repeats + 1):
        for name, loss in losses.items():
            for pair, times in zip(images, taken[name]):
                spent = milliseconds(loss, *(one.clone() for one in pair))
                times += [spent] if repeat else []  # the first one warms up
    for name, columns in taken.items():
        print(
            f"| {name} | "
            + " | ".join(f"{median(times):.1f}" for times in columns)
            + " |"
        )


if __name__ == "__main__":
    main()
