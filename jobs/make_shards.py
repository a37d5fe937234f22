"""python jobs/make_shards.py is the command ldlva make_shards: ldlva_dist/commands/data/make_shards.py."""

from ldlva_dist.commands.program import run_command

if __name__ == "__main__":
    run_command("make_shards")
