"""python jobs/build_index.py is the command ldlva build_index: ldlva_dist/commands/data/build_index.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("build_index")
