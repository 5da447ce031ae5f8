"""Programs run inside the test's process, which is quicker than a process for each."""

import importlib
import sys

import jax
import pytest
from absl import flags


@pytest.fixture(scope="session")
def run_main():
    """run_main(name, *arguments): the main() of a program, its flags parsed from the arguments."""

    def run(name, *arguments):
        # absl's flags are global: those of programs that ran before make way.
        for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
            if module.startswith("experiments."):
                for flag in list(defined):
                    delattr(flags.FLAGS, flag.name)
        for flag in list(flags.FLAGS):
            if flag.startswith("config."):
                delattr(flags.FLAGS, flag)
        sys.modules.pop(f"experiments.{name}", None)
        program = importlib.import_module(f"experiments.{name}")
        # The fields of a configuration are looked for in sys.argv, whatever is parsed.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *arguments])
            flags.FLAGS(sys.argv)
        program.main()

    return run


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """What runs a few times compiles for longer than it runs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
