"""Train one size on the CPU: ``python examples/models/train.py large --minutes 50``; run it again to resume."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fathom_examples.architecture import END_OF_TEXT_ID, SIZES, build_model, export_model  # noqa: E402
from fathom_examples.batches import MicroBatch, collate, encode_samples, training_steps  # noqa: E402
from fathom_examples.corpus import held_out_samples  # noqa: E402
from fathom_examples.tasks import TASKS  # noqa: E402

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

WARM_UP_SHARE = 0.02
DECAY_SHARE = 0.5
EAGER_BELOW = 96


def learning_rate_factor(progress: float) -> float:
    """Warm-up, plateau, then linear decay to zero; ``progress`` runs from 0 to 1."""
    return max(0.0, min(1.0, (progress + 1e-3) / WARM_UP_SHARE, (1 - progress) / DECAY_SHARE))


def optimizers(model: Qwen3ForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices; AdamW for the embedding and the norms."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=learning_rate, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=3
        ),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def predictions(model: Qwen3ForCausalLM, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the supervised positions only [n, vocabulary], and their target ids [n]."""
    import torch

    # Measured on two cores: below about 100 positions plain matrix products beat the fused kernel's backward pass.
    model.config._attn_implementation = "eager" if batch.ids.shape[1] <= EAGER_BELOW else "sdpa"
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        wanted = batch.targets >= 0
        logits = model.lm_head(hidden[wanted])
    return logits.float(), batch.targets[wanted]


def accumulate(model: Qwen3ForCausalLM, micro_batches: list[MicroBatch]) -> float:
    """Add the gradients of one step's weighted mean loss; gives that loss."""
    import torch

    total_weight = sum(float(b.weights.sum()) for b in micro_batches)
    total_loss = 0.0
    for batch in micro_batches:
        logits, targets = predictions(model, batch)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * batch.weights[batch.targets >= 0]).sum() / total_weight
        torch.autograd.backward(loss)
        total_loss += loss.item()
    return total_loss


def apply(
    model: Qwen3ForCausalLM, opts: list[torch.optim.Optimizer], learning_rate: float, most_norm: float = 1.0
) -> None:
    """Step the weights by their gradients, cut to a norm, at a learning rate; the gradients are gone then."""
    import torch

    torch.nn.utils.clip_grad_norm_(model.parameters(), most_norm)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = learning_rate
        opt.step()
        opt.zero_grad(set_to_none=True)


def teacher_forced_accuracy(model: Qwen3ForCausalLM, tokenizer: Tokenizer, per_task: int = 60) -> dict[str, float]:
    """Share of replies whose every token is the argmax, which is when greedy decoding gives the very reply."""
    import torch

    samples = held_out_samples(seed=1, per_task=per_task)
    accuracy = {}
    with torch.inference_mode():
        for task in TASKS:
            rows = sorted(
                encode_samples(tokenizer, [s for s in samples if s.task == task]), key=lambda row: len(row.ids)
            )
            right = 0
            for start in range(0, len(rows), 20):
                batch = collate(rows[start : start + 20])
                logits, targets = predictions(model, batch)
                row_of = (batch.targets >= 0).nonzero()[:, 0]
                wrong_rows = set(row_of[logits.argmax(-1) != targets].tolist())
                right += batch.ids.shape[0] - len(wrong_rows)
            accuracy[task] = right / len(rows)
    return accuracy


class Group:
    """The processes that train one model, each on its own data; gradients are averaged once a step.

    Processes of one thread each beat one process of many threads on a shared machine: they meet once a step, where
    threads meet at every operator and wait for whichever the machine has just set aside.
    """

    def __init__(self, rank: int, processes: int, store: Path) -> None:
        import torch.distributed as dist

        self.rank, self.processes = rank, processes
        if processes > 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)

    def average(self, model: Qwen3ForCausalLM, elapsed_s: float) -> float:
        """Average the gradients in place, and return the mean of ``elapsed_s``, the same in every process."""
        import torch
        import torch.distributed as dist

        if self.processes == 1:
            return elapsed_s
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([elapsed_s])]) / self.processes
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        for gradient, mean in zip(gradients, torch.split(flat[:-1], sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return float(flat[-1])


def train(rank: int, arguments: argparse.Namespace) -> None:
    """Train for the given minutes of computing time; progress, weights and optimizer state survive a stop."""
    import torch
    from tokenizers import Tokenizer

    torch.set_num_threads(1 if arguments.processes > 1 else arguments.threads)
    team = Group(rank, arguments.processes, arguments.work / f".{arguments.size}.store")
    torch.manual_seed(arguments.seed)
    size = SIZES[arguments.size]
    tokenizer = Tokenizer.from_file(str(HERE / arguments.size / "tokenizer.json"))
    model = build_model(size)
    rate = arguments.learning_rate or size.learning_rate
    opts = optimizers(model, rate)
    checkpoint = arguments.work / f"{arguments.size}.pt"
    step, tokens, spent_s = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        step, tokens, spent_s = state["step"], state["tokens"], state["spent_s"]
    limit_s = arguments.minutes * 60
    if rank == 0:
        print(
            f"{arguments.size}: {sum(p.numel() for p in model.parameters()):,} parameters, from step {step}", flush=True
        )

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [opt.state_dict() for opt in opts],
            "step": step,
            "tokens": tokens,
            "spent_s": spent_s,
        }
        torch.save(state, checkpoint.with_suffix(".partial"))
        checkpoint.with_suffix(".partial").replace(checkpoint)
        accuracy = teacher_forced_accuracy(model, tokenizer)
        mean = sum(accuracy.values()) / len(accuracy)
        print(f"  accuracy {mean:.3f} " + " ".join(f"{k} {v:.2f}" for k, v in accuracy.items()), flush=True)

    saved_at_s = spent_s
    seed = arguments.seed + step * arguments.processes + rank
    data = training_steps(tokenizer, seed, arguments.step_tokens // arguments.processes, arguments.conversations)
    mark = time.monotonic()
    for micro_batches in data:
        progress = spent_s / limit_s
        if progress >= 1:
            break
        total_loss = accumulate(model, micro_batches)
        previous, mark = mark, time.monotonic()
        elapsed_s = team.average(model, mark - previous)
        apply(model, opts, rate * learning_rate_factor(progress))
        if not math.isfinite(total_loss):
            raise ArithmeticError(f"loss is {total_loss} at step {step}: lower --learning-rate")
        seen = arguments.processes * sum(int((b.ids != END_OF_TEXT_ID).sum()) for b in micro_batches)
        step, tokens = step + 1, tokens + seen
        spent_s += elapsed_s
        if step % 10 == 0 and rank == 0:
            print(f"step {step} {spent_s:.0f} s loss {total_loss:.4f} {seen / elapsed_s:.0f} tokens/s", flush=True)
        if rank == 0 and spent_s - saved_at_s > arguments.save_every_s:
            save()
            saved_at_s, mark = spent_s, time.monotonic()
    if rank > 0:
        return
    save()
    training = {"steps": step, "tokens": tokens, "seconds": round(spent_s)}
    export_model(size, model.state_dict(), HERE / arguments.size, training)
    print(f"done: {step} steps, {tokens:,} tokens, {spent_s:.0f} s", flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--minutes", type=float, required=True, help="computing time; the schedule ends with it")
    parser.add_argument("--step-tokens", type=int, default=5_000)
    parser.add_argument("--conversations", type=float, default=0.2, help="share of tokens in multi-turn conversations")
    parser.add_argument("--learning-rate", type=float, help="peak; default: the size's own")
    parser.add_argument("--save-every-s", type=float, default=240)
    parser.add_argument("--processes", type=int, default=2, help="single-threaded processes that share each step")
    parser.add_argument("--threads", type=int, default=2, help="threads, where --processes is 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="folder of resumable checkpoints, not in git")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.processes == 1:
        train(0, arguments)
        return
    (arguments.work / f".{arguments.size}.store").unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=train, args=(rank, arguments), daemon=True) for rank in range(arguments.processes)
    ]
    # Leaving by an exception, SIGTERM's included, ends daemonic workers; without this they would train on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        for worker in workers:
            worker.join(timeout=1)
            if worker.exitcode:
                sys.exit(f"a training process ended with code {worker.exitcode}; its message stands above")


if __name__ == "__main__":
    main()
