"""Makes the optimizers, with options that can be written on a command line.

pytorch-optimizer's own classes take anything by ``**kwargs``: a misspelled option would be ignored
without a word. Here each has the options that are worth setting, by the names that users see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pytorch_optimizer
import torch
from torch import Tensor

#: parameters, or groups of them
Params: TypeAlias = Iterable[Any]


def lion(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    cautious: bool = False,
) -> torch.optim.Optimizer:
    """Lion (Chen et al. 2023, *Symbolic Discovery of Optimization Algorithms*).

    Args:
        params: parameters, or groups of them.
        lr: a third to a tenth of Adam's.
        weight_decay: decoupled; three to ten times AdamW's.
        beta1: of the step.
        beta2: of the momentum that is kept.
        cautious: leave out what goes against the gradient (Liang et al. 2024).
    """
    return pytorch_optimizer.Lion(
        params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, cautious=cautious
    )


class Prodigy(pytorch_optimizer.Prodigy):
    """Prodigy that heeds the rates of its groups.

    The library takes the first group's rate for all; here each moves by its share of that, so that
    ``--layer-decay`` has the meaning that it has with other optimizers.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Makes a step."""
        first = self.param_groups[0]["lr"]
        others = [
            (p, p.detach().clone(), group["lr"] / first)
            for group in self.param_groups
            if first and group["lr"] != first
            for p in group["params"]
            if p.grad is not None
        ]
        loss = super().step(closure)
        with torch.no_grad():
            for parameter, before, share in others:
                # the step is linear in the rate, the decay included
                parameter.copy_(before.lerp(parameter, share))
        return loss


def prodigy(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = float("inf"),
    bias_correction: bool = False,
) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko & Defazio 2024, *An Expeditiously Adaptive Parameter-Free Learner*).

    Args:
        params: parameters, or groups of them.
        lr: a factor on the rate that it finds; 1.
        weight_decay: decoupled.
        beta1: of the gradients.
        beta2: of their squares.
        d0: first estimate of how far away the optimum is.
        d_coef: factor on the estimates; the one to change, if any.
        growth_rate: how much an estimate may grow at each step.
        bias_correction: as in Adam.

    Raises:
        ValueError: ``lr`` is a rate, not a factor.
    """
    if lr < 0.1:
        raise ValueError(
            "it finds the rate itself, and lr is a factor on that: write --lr 1 (at least 0.1)"
        )
    return Prodigy(
        params,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
        bias_correction=bias_correction,
        # its authors' advice for --warmup-epochs; without one it is the same
        safeguard_warmup=True,
    )


def adan(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.98,
    beta2: float = 0.92,
    beta3: float = 0.99,
) -> torch.optim.Optimizer:
    """Adan (Xie et al. 2022, *Adaptive Nesterov Momentum Algorithm*).

    Args:
        params: parameters, or groups of them.
        lr: bears more than Adam's.
        weight_decay: proximal, as in the paper.
        beta1: of the gradients.
        beta2: of their differences.
        beta3: of the squares.
    """
    return pytorch_optimizer.Adan(
        params, lr=lr, betas=(beta1, beta2, beta3), weight_decay=weight_decay
    )


def muon(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024), for matrices and convolutions; AdamW for all else.

    Steps are scaled to the size of AdamW's (Liu et al. 2025, *Muon is Scalable for LLM Training*),
    so that one rate is right for both.

    Args:
        params: parameters, or groups of them.
        lr: as for AdamW.
        weight_decay: decoupled.
        momentum: of the matrices.
        nesterov: look ahead.
        ns_steps: Newton-Schulz iterations.
        beta1: AdamW's.
        beta2: AdamW's.
    """
    groups = []
    for group in _grouped(params):
        for use_muon in (True, False):
            chosen = [p for p in group["params"] if _is_matrix(p) == use_muon]
            if chosen:
                groups.append({**group, "params": chosen, "use_muon": use_muon})
    return pytorch_optimizer.Muon(
        groups,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        ns_steps=ns_steps,
        use_adjusted_lr=True,
        adamw_lr=lr,
        adamw_betas=(beta1, beta2),
        adamw_wd=weight_decay,
        adamw_eps=1e-8,
    )


def _grouped(params: Params) -> list[dict[str, Any]]:
    given = list(params)
    return given if given and isinstance(given[0], dict) else [{"params": given}]


def _is_matrix(parameter: Tensor) -> bool:
    """Whether it has rows and columns: no position ``[1, N, D]``, no scale ``[C, 1, 1]``."""
    rows = parameter.shape[0] if parameter.ndim > 1 else 1
    return rows > 1 and parameter.numel() > rows


def schedule_free_adamw(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024, *The Road Less Scheduled*).

    Args:
        params: parameters, or groups of them.
        lr: as for AdamW, or up to ten times as much.
        weight_decay: at the point where gradients are taken.
        beta1: how far that point lies towards the average.
        beta2: of the squares.
        r: later steps weigh more in the average by this power.
        weight_lr_power: steps of a warm-up weigh less by this power of their rate.
    """
    return pytorch_optimizer.ScheduleFreeAdamW(
        params,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        r=r,
        weight_lr_power=weight_lr_power,
    )


def schedule_free_sgd(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> torch.optim.Optimizer:
    """Schedule-free SGD (Defazio et al. 2024, *The Road Less Scheduled*).

    Args:
        params: parameters, or groups of them.
        lr: ten times that of SGD with momentum, or more.
        weight_decay: at the point where gradients are taken.
        momentum: how far that point lies towards the average.
        r: later steps weigh more in the average by this power.
        weight_lr_power: steps of a warm-up weigh less by this power of their rate.
    """
    return pytorch_optimizer.ScheduleFreeSGD(
        params,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        r=r,
        weight_lr_power=weight_lr_power,
    )


def lamb(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
) -> torch.optim.Optimizer:
    """LAMB (You et al. 2020, *Large Batch Optimization for Deep Learning*).

    Args:
        params: parameters, or groups of them.
        lr: the part of its norm by which a layer moves.
        weight_decay: within the norm of the step, as in the paper.
        beta1: of the gradients.
        beta2: of their squares.
    """
    return pytorch_optimizer.Lamb(
        params,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        weight_decouple=False,
        # the norm of the step cancels Adam's correction; the library's half of one would make the
        # first steps 1 / (1 - beta1) times too long
        adam_debias=True,
    )


def adabelief(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    rectify: bool = False,
) -> torch.optim.Optimizer:
    """AdaBelief (Zhuang et al. 2020, *Adapting Stepsizes by the Belief in Observed Gradients*).

    Args:
        params: parameters, or groups of them.
        lr: as for AdamW.
        weight_decay: decoupled.
        beta1: of the gradients.
        beta2: of the squares of their surprises.
        eps: its authors' for image classification; 1e-16 for transformers.
        rectify: as RAdam does.
    """
    return pytorch_optimizer.AdaBelief(
        params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps, rectify=rectify
    )


def adopt(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.9999,
    eps: float = 1e-6,
) -> torch.optim.Optimizer:
    """ADOPT (Taniguchi et al. 2024, *Modified Adam Can Converge with Any beta2*).

    Args:
        params: parameters, or groups of them.
        lr: as for AdamW.
        weight_decay: decoupled.
        beta1: of the steps.
        beta2: of the squares of the gradients.
        eps: least of what is divided by.
    """
    return pytorch_optimizer.ADOPT(
        params,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        weight_decouple=True,
        eps=eps,
    )


def stable_adamw(
    params: Params,
    lr: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """StableAdamW (Wortsman et al. 2023, *Stable and Low-Precision Training*).

    AdamW whose steps are shortened, as Adafactor's are, where gradients are larger than their past
    says: clipping that needs no threshold.

    Args:
        params: parameters, or groups of them.
        lr: as for AdamW.
        weight_decay: decoupled.
        beta1: of the gradients.
        beta2: of their squares.
        eps: least of what is divided by.
    """
    return pytorch_optimizer.StableAdamW(
        params,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        eps=eps,
        kahan_sum=False,  # for weights of 16 bits, which are not trained here
    )
