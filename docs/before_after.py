"""Makes docs/before_after.gif: CartPole before and after configs/cartpole.yaml, side by side.

python docs/before_after.py
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

from pg_lightning import Reinforce
from pg_lightning.cli import main

FRAMES, STEP, WIDTH = 120, 3, 240


def frames_of(agent: Reinforce, seed: int) -> list[Image.Image]:
    """Play from a seed; an episode that ends early starts again."""
    env, frames = gym.make("CartPole-v1", render_mode="rgb_array"), []
    observation, _ = env.reset(seed=seed)
    for index in range(FRAMES * STEP):
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        if index % STEP == 0:
            image = Image.fromarray(env.render()).crop((0, 120, 600, 400))
            frames.append(image.resize((WIDTH, WIDTH * 280 // 600)))
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return frames


def make(path: Path) -> None:
    """Train, play before and after, and write the animation."""
    root = ["--trainer.default_root_dir", "runs/before_after", "--trainer.enable_progress_bar", "false"]
    main(["fit", "--config", "cartpole", *root])
    run = max(Path("runs/before_after/CartPole-v1").glob("version_*"), key=lambda one: one.stat().st_mtime)
    trained = Reinforce.load_from_checkpoint(run / "checkpoints/last.ckpt")
    pairs = zip(frames_of(Reinforce("CartPole-v1"), 0), frames_of(trained, 0), strict=True)
    joined = [Image.fromarray(np.concatenate([np.asarray(one) for one in pair], axis=1)) for pair in pairs]
    small = [one.quantize(16) for one in joined]
    small[0].save(path, save_all=True, append_images=small[1:], duration=60, loop=0, optimize=True)


if __name__ == "__main__":
    make(Path(__file__).with_suffix(".gif"))
