"""One line for each iteration and each evaluation."""

from __future__ import annotations

from collections.abc import Mapping


def iteration_line(iteration: int, iterations: int, metrics: Mapping[str, float], seconds_left: float) -> str:
    """What an iteration did, e.g. `iteration 3/100  success 41.2 %  groups 48+6  kl 0.0021  ...`."""
    parts = [
        f"[bold]iteration {iteration}/{iterations}[/bold]",
        f"success {metrics['train/success_rate']:.1%}",
        f"reward {metrics['train/reward']:.3f}",
        f"groups {metrics['groups/kept']:.0f} kept, {metrics['groups/dropped']:.0f} dropped",
    ]
    if metrics["update/samples"] > 0:
        parts += [
            f"kl {metrics['update/kl']:.4f}",
            f"clipped {metrics['update/clip_share']:.1%}",
            f"entropy {metrics['update/entropy']:.2f}",
        ]
        if metrics["update/stopped_early"]:
            parts.append(f"[yellow]stopped at kl {metrics['update/refused_kl']:.2g}: learning rate halved[/yellow]")
    else:
        parts.append(f"[yellow]nothing to learn from{_why(metrics['train/success_rate'])}[/yellow]")
    parts += [f"{metrics['time/iteration_seconds']:.1f} s", f"{duration(seconds_left)} left"]
    return "  ".join(parts)


def _why(success_rate: float) -> str:
    """Why no group had rewards that differ, where the share of successes says it, and what to do."""
    if success_rate == 0:
        return ": every rollout failed (fine-tune on more demonstrations, or lower algo.sampling.temperature)"
    if success_rate == 1:
        return ": every rollout succeeded (choose harder tasks, or raise algo.sampling.temperature)"
    return ""


def evaluation_line(iteration: int, metrics: Mapping[str, float]) -> str:
    """Held-out success with its interval."""
    return (
        f"[bold green]held-out success after iteration {iteration}: {metrics['eval/success_rate']:.1%}[/bold green] "
        f"({metrics['eval/wilson_low']:.1%} to {metrics['eval/wilson_high']:.1%}, "
        f"{metrics['eval/episodes']:.0f} episodes)"
    )


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
