"""How long until faithgen can be used: imports, and the packaged default from the cache, each in a process of its own.

    python benchmarks/startup.py

The model has been converted before (`make demo`), and files have been read before, as on a machine in use. What faithgen
adds cannot be seen without the imports of torch and transformers, so each is divided by those alone.
"""

import argparse
import subprocess
import sys

from common import interleaved, report, table

IMPORTS = "import torch and transformers"
STARTS = {
    "faithgen --help": ["-m", "faithgen", "--help"],
    IMPORTS: ["-c", "import torch, transformers.modeling_utils"],
    "import FaithfulGenerator": ["-c", "from faithgen import FaithfulGenerator"],
    "import and load": ["-c", "from faithgen import FaithfulGenerator; FaithfulGenerator.from_pretrained()"],
}
TARGETS = {"faithgen --help": 1.0, "import and load": 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    def start(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    tasks = {name: lambda arguments=arguments: start(arguments) for name, arguments in STARTS.items()}
    times = interleaved(tasks, options.repeats)
    ratios = {name: seconds / times[IMPORTS] for name, seconds in times.items()}
    rows = [
        [name, f"{seconds:.2f}", f"≤ {TARGETS[name]:.0f}" if name in TARGETS else None, ratios[name]]
        for name, seconds in times.items()
    ]
    print(f"medians of {options.repeats}")
    table(["", "s", "target", f"÷ {IMPORTS}"], rows)
    report("startup", {"seconds": times, "over_imports": ratios, "targets": TARGETS})


if __name__ == "__main__":
    main()
