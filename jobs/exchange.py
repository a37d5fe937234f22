"""python jobs/exchange.py is the command ldlva exchange: ldlva_dist/commands/labels/exchange.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("exchange")
