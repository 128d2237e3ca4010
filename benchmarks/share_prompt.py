"""Does computing a pair's prompt once pay in training? A step of plain pairs against a step of packed ones.

    python benchmarks/share_prompt.py --prompt 512 --answer 32 --pairs 2
    python benchmarks/share_prompt.py --model meta-llama/Llama-3.1-8B-Instruct --prompt 4096 --checkpointing   # on a GPU

Both do forward and backward of the same pairs (random tokens) through LoRA on all linear layers and the control tokens, in
turns, by the trainer's own collator and loss. Kept on as the default if packed is at least 1.3 times as fast at equal
gradients: they are compared first, in float32 on a copy of the first two layers.
"""

import argparse
import copy
import tempfile

import torch
from common import interleaved, report
from datasets import Dataset
from peft import LoraConfig

from faithgen.models import default_device, resolve_dtype
from faithgen.training import RHIOConfig, RHIOTrainer
from faithgen.training.loading import load_trainable

TARGET = 1.3


def trainer_of(model, tokenizer, rows, options, share: bool, checkpointing: bool) -> RHIOTrainer:
    """A trainer over rows that are token ids already."""
    config = RHIOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=options.device == "cpu",
        bf16=model.dtype == torch.bfloat16,
        gradient_checkpointing=checkpointing,
        share_prompt=share,
        report_to="none",
        save_strategy="no",
    )
    lora = LoraConfig(r=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    data = Dataset.from_list(rows)
    return RHIOTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora)


def gradients(trainer: RHIOTrainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch of all rows."""
    trainer.model.zero_grad(set_to_none=True)
    loss = step(trainer)
    return loss, {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def step(trainer: RHIOTrainer) -> float:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    loss = trainer.training_step(trainer.model, batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--prompt", type=int, default=512, help="tokens of a prompt; the control token is near its end"
    )
    parser.add_argument("--answer", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    dtype = resolve_dtype(options.dtype, options.device)
    model, tokenizer, base = load_trainable(options.model, init_kwargs={"dtype": dtype, "attn_implementation": "sdpa"})
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(5, 1000, (count,), generator=generator).tolist()

    slot = options.prompt - 5
    rows = [
        {
            "prompt_ids": tokens(options.prompt),
            "slot": slot,
            "answer_ids": tokens(options.answer),
            "unfaithful_ids": tokens(options.answer),
        }
        for _ in range(options.pairs)
    ]
    small = copy.deepcopy(model).float()
    small.model.layers = small.model.layers[:2]
    small.config.num_hidden_layers = 2
    found = []
    for share in (False, True):
        trainer = trainer_of(copy.deepcopy(small), copy.deepcopy(tokenizer), rows, options, share, False)
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:  # zero at first, so that A would have no gradient
                    parameter.copy_(torch.linspace(-0.01, 0.01, parameter.numel()).view_as(parameter))
        found.append(gradients(trainer))
    difference = max(float((found[0][1][name] - grad).abs().max()) for name, grad in found[1][1].items())
    largest = max(float(grad.abs().max()) for grad in found[0][1].values())
    del small, found

    trainers = {}
    for name, share in (("plain", False), ("packed", True)):
        trainers[name] = trainer_of(
            copy.deepcopy(model), copy.deepcopy(tokenizer), rows, options, share, options.checkpointing
        )
        trainers[name].model.to(options.device)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = interleaved({name: lambda one=one: step(one) for name, one in trainers.items()}, options.repeats)
    ratio = times["plain"] / times["packed"]
    print(
        f"\n{base.model_id}, {options.pairs} pairs of {options.prompt} + {options.answer} tokens, {dtype}, {options.device}"
    )
    print("| step | seconds |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.3f} |")
    print(
        f"packed is {ratio:.2f} times as fast (target {TARGET}); gradients differ by at most {difference:.1e} "
        f"of {largest:.1e}"
    )
    figures = {"seconds": times, "ratio": ratio, "gradient_difference": difference, "largest_gradient": largest}
    settings = {name: getattr(options, name) for name in ("model", "prompt", "answer", "pairs", "checkpointing")}
    report("share_prompt", {**settings, "dtype": str(dtype), **figures})


if __name__ == "__main__":
    main()
