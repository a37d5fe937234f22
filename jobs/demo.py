"""python jobs/demo.py is the command ldlva demo: ldlva_dist/commands/start/demo.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("demo")
