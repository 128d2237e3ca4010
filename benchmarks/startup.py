"""How long until faithgen can be used: imports, and the packaged default from the cache, each in a process of its own.

    python benchmarks/startup.py

The model has been converted before (`make demo`), and files have been read before, as on a machine in use.
"""

import argparse
import subprocess
import sys

from common import interleaved, report

STARTS = {
    "faithgen --help": ["-m", "faithgen", "--help"],
    "import torch and transformers": ["-c", "import torch, transformers.modeling_utils"],
    "import FaithfulGenerator": ["-c", "from faithgen import FaithfulGenerator"],
    "import and load": ["-c", "from faithgen import FaithfulGenerator; FaithfulGenerator.from_pretrained()"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    def start(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    tasks = {name: lambda arguments=arguments: start(arguments) for name, arguments in STARTS.items()}
    times = interleaved(tasks, options.repeats)
    for name, seconds in times.items():
        print(f"| {name:30} | {seconds:6.2f} s |")
    report("startup", {"seconds": times})


if __name__ == "__main__":
    main()
