"""How long until faithgen can be used: imports, and the packaged default from the cache, each in a process of its own.

    python benchmarks/startup.py

The model has been converted before (`make demo`), and files have been read before, as on a machine in use. What faithgen
adds cannot be seen without the imports of torch and transformers, so each is divided by those alone. Imports and loading end
where the work could begin; what Python then takes to end the process is in `faithgen doctor`, which imports all of it too.
"""

import argparse
import os
import subprocess
import sys

from common import interleaved, report, table

READY = "import os; os._exit(0)"
IMPORTS = "import torch and transformers"
STARTS = {
    "faithgen --help": ["-m", "faithgen", "--help"],
    "faithgen doctor": ["-m", "faithgen", "doctor"],
    IMPORTS: ["-c", f"import torch, transformers.modeling_utils; {READY}"],
    "import FaithfulGenerator": ["-c", f"from faithgen import FaithfulGenerator; {READY}"],
    "import and load": ["-c", f"from faithgen import FaithfulGenerator; FaithfulGenerator.from_pretrained(); {READY}"],
}
TARGETS = {"faithgen --help": 1.0, "import and load": 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def start(arguments: list[str]) -> None:
        """Code that was compiled by Python before, as it is where a package was installed."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, *arguments], check=True, env=environment, **quiet)

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
