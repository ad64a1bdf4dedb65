"""Axolotl's training, watched. Its configuration names this class: plugins: [watch_axolotl.Watched]"""

from axolotl.integrations.base import BasePlugin

from stateshape import StateshapeCallback


class Watched(BasePlugin):
    def post_trainer_create(self, cfg, trainer):
        StateshapeCallback(
            task="arithmetic",  # what it is trained for: a task's name, or a .jsonl file
            retention=["facts"],  # what should not suffer
            every=0.5,  # evaluations: before the first step, at the half, after the last
            limit=32,  # items of each task
            out=f"{cfg.output_dir}/watched",
        ).attach(trainer)
