"""Encoders: raw observations of every space as features, in torch and by their NumPy twins."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from pg_lightning import EpisodeDataModule, EpisodeSampler, MLPPolicy, Reinforce
from pg_lightning.envs.frames import FrameStackSpace
from pg_lightning.policies import CNNBody, CNNPolicy, ImageEncoder
from pg_lightning.policies.encoders import make_encoder
from pg_lightning.policies.twins import Drawing, numpy_twin, run_layers
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.reading import ObservationReader
from pg_lightning.tree import tree_map
from tests.envs import Spaces
from tests.helpers import trainer

ACTIONS = Discrete(2)
RGB, FRAMES = Box(0, 255, (40, 50, 3), np.uint8), Box(0, 255, (4, 40, 50), np.uint8)


def encode(space, observations):
    return make_encoder(space)(tree_map(lambda leaf: torch.from_numpy(np.asarray(leaf)), observations))


# What the features are


@pytest.mark.parametrize(
    ("space", "observations", "expected"),
    [
        (Box(-9, 9, (2,)), [[1.5, -2], [0, 3]], [[1.5, -2], [0, 3]]),
        (Box(-9, 9, ()), [4.0, -1.0], [[4], [-1]]),
        (Box(-9, 9, (2, 1, 2), np.int16), [[[[1, 2]], [[3, -4]]]], [[1, 2, 3, -4]]),
        (Box(0, 1, (2,), bool), [[True, False]], [[1, 0]]),
        (MultiBinary((2, 2)), [[[1, 0], [0, 1]]], [[1, 0, 0, 1]]),
        (Discrete(3), [0, 2], [[1, 0, 0], [0, 0, 1]]),
        (Discrete(3, start=-1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
        (MultiDiscrete([2, 3], start=[5, 0]), [[6, 1], [5, 2]], [[0, 1, 0, 1, 0], [1, 0, 0, 0, 1]]),
        (MultiDiscrete([[2], [2]]), [[[1], [0]]], [[0, 1, 1, 0]]),
    ],
)
def test_features_by_hand(space, observations, expected):
    features = encode(space, np.array(observations, space.dtype))
    assert features.tolist() == expected and features.dtype == torch.float32


def test_text_is_one_hot_by_place_and_character():
    space = Text(3, charset="ab€")
    reader = ObservationReader(space, ACTIONS, takes_masks=True)
    codes, masks = reader.read(np.array(["b", "€a", "aab"], object), {})
    assert codes.dtype == np.int32 and codes.tolist() == [[98, 0, 0], [0x20AC, 97, 0], [97, 97, 98]] and masks == ()
    a, b, euro, nothing = [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]
    expected = [b + nothing + nothing, euro + a + nothing, a + a + b]
    assert encode(space, codes).tolist() == expected


@pytest.mark.parametrize("given", [("ab", ""), ["ab", ""], np.array(["ab", ""])])
def test_texts_come_in_any_sequence(given):
    codes, _ = ObservationReader(Text(4), ACTIONS, True).read(given, {})
    assert codes.tolist() == [[97, 98, 0, 0], [0, 0, 0, 0]]


def test_a_text_that_is_too_long_is_named():
    with pytest.raises(ValueError, match="the text 'abcd' came, but its space has at most 3 characters"):
        ObservationReader(Text(3), ACTIONS, True).read(("ab", "abcd"), {})


@pytest.mark.parametrize("space", [RGB, FRAMES])
def test_images_are_scaled_and_turned_to_channels_first(space):
    torch.manual_seed(0)
    encoder = make_encoder(space)
    assert isinstance(encoder, ImageEncoder)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, *space.shape), np.uint8))
    first = images if space is FRAMES else images.permute(0, 3, 1, 2)
    expected = encoder.cnn(first.float() / 255)
    assert encoder.num_features == expected.shape[1]
    torch.testing.assert_close(encoder(images), expected)


def test_grey_images_without_a_channel_and_other_bounds():
    encoder = ImageEncoder(Box(-1, 3, (12, 9), np.float64))
    images = torch.rand(4, 12, 9, dtype=torch.float64) * 4 - 1
    torch.testing.assert_close(encoder(images), encoder.cnn((images.float()[:, None] + 1) / 4), atol=1e-6, rtol=1e-5)


def test_convolutions_are_those_of_the_size():
    assert [type(layer).__name__ for layer in CNNBody((4, 84, 84))] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten"]
    assert CNNBody((4, 84, 84)).num_outputs == 32 * 9 * 9  # Mnih et al. (2013).
    assert CNNBody((3, 36, 36)).num_outputs == 32 * 3 * 3
    assert CNNBody((3, 35, 90)).num_outputs == 32 * 18 * 45
    assert CNNBody((1, 1, 1)).num_outputs == 32
    assert CNNBody((3, 8, 8), layers=[(5, 2, 2, 0)]).num_outputs == 5 * 4 * 4


def test_a_stack_of_more_frames_than_columns_keeps_its_frames_as_channels():
    space = FrameStackSpace(0, 255, (9, 8, 8), np.uint8)
    assert make_encoder(space).cnn[0].in_channels == 9


@pytest.mark.parametrize(
    "layer", [(16, 3, 0, 1), (0, 3, 1, 1), (-1, 3, 1, 1), (16, 3, 1, -4), (16, 3, 1), (16, 2.5, 1, 0)]
)
def test_layers_out_of_range(layer):
    with pytest.raises(ValueError, match=r"layers are \(channels, kernel size, stride, padding\), whole numbers"):
        CNNBody((1, 8, 8), layers=[(4, 3, 1, 1), layer])


def test_refused_images():
    with pytest.raises(ValueError, match="pixels that can only be 3 show nothing"):
        ImageEncoder(Box(3, 3, (8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="images of 8 x 8 pixels are too small for the layers"):
        CNNBody((1, 8, 8), layers=[(16, 9, 1, 0)])
    for space in (Box(0, 1, (4,)), Box(0, np.inf, (8, 8, 3))):
        with pytest.raises(ValueError, match="images are a Box of 2 or 3 dimensions with finite bounds, not Box"):
            ImageEncoder(space)
    with pytest.raises(ValueError, match="images are a Box"):
        CNNPolicy(Discrete(3), ACTIONS)


def test_a_cnn_policy_has_the_layers_it_is_given():
    policy = CNNPolicy(RGB, ACTIONS, layers=[(8, 8, 8, 0)], hidden_sizes=(32, 16))
    assert [tuple(p.shape) for p in policy.parameters() if p.ndim > 1] == [(8, 3, 8, 8), (32, 240), (16, 32), (2, 16)]
    assert policy(torch.zeros(2, *RGB.shape, dtype=torch.uint8)).logits.shape == (2, 2)


def test_entries_of_a_dict_are_encoded_each_by_its_space_and_joined():
    space = Dict(frame=RGB, speed=Box(-9, 9, (2,)), gear=Discrete(3, start=1), action_mask=MultiBinary(2))
    torch.manual_seed(0)
    encoder = make_encoder(space)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *RGB.shape), np.uint8))
    features = encoder({"frame": frames, "speed": torch.tensor([[2.5, -1]]), "gear": torch.tensor([3])})
    image = encoder.parts[0](frames)
    assert encoder.keys == ["frame", "speed", "gear"] and encoder.num_features == image.shape[1] + 5
    torch.testing.assert_close(features, torch.cat([image, torch.tensor([[2.5, -1, 0, 0, 1]])], 1))
    assert encoder.is_number == [False] * image.shape[1] + [True] * 2 + [False] * 3


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Sequence(Discrete(2)),
        gym.spaces.Graph(Box(0, 1, (2,)), None),
        Dict(a=Discrete(2), b=gym.spaces.Sequence(Box(0, 1, (2,)))),
    ],
)
def test_spaces_without_a_fixed_shape_are_refused(space):
    with pytest.raises(
        ValueError, match=r"no encoder for the observation space (Seq|Gra).* wrap the .*wrappers=\.\.\.\)\)$"
    ):
        MLPPolicy(space, ACTIONS)
    with pytest.raises(ValueError, match=r"observations of (Seq|Gra).* have no fixed shape: wrap the environment"):
        ObservationReader(space, ACTIONS, takes_masks=False)


def test_other_spaces_without_an_encoder_hint_at_a_policy_of_ones_own():
    class Angle(gym.Space):
        pass

    with pytest.raises(ValueError, match=r"no encoder for the observation space .*, or hand in a policy of your own"):
        make_encoder(Angle((2,), np.float32))


# Acting and learning with every space

SPACES = {
    "vector": Box(-1, 1, (3,), np.float32),
    "double": Box(-1, 1, (2, 2), np.float64),
    "half": Box(-1, 1, (2,), np.float16),
    "scalar": Box(-5, 5, (), np.int64),
    "unsigned": Box(0, 9, (3,), np.uint32),
    "bits": Box(0, 1, (2,), bool),
    "bytes": Box(0, 255, (2, 3), np.uint8),
    "numbers in space": Box(-np.inf, np.inf, (1, 2, 3), np.float32),
    "discrete": Discrete(5, start=-3),
    "multidiscrete": MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [2, 3]]),
    "multibinary": MultiBinary((2, 2)),
    "text": Text(6),
    "small image": Box(0, 255, (7, 7, 3), np.uint8),
    "image": Box(0, 255, (2, 40, 40), np.uint8),
    "tuple": Tuple((Text(2), Discrete(2), Box(-1, 1, (2,)))),
    "dict": Dict(
        frame=Box(0, 255, (8, 8, 1), np.uint8), name=Text(3), inner=Dict(v=Box(-1, 1, (1,)), k=MultiBinary(2))
    ),
}


@pytest.mark.parametrize("name", [name for name in SPACES if "image" not in name and name != "dict"])
@pytest.mark.parametrize("double", [False, True])
def test_twins_give_the_features_of_torch(name, double):
    space = SPACES[name]
    encoder = make_encoder(space).double() if double else make_encoder(space)
    floats = np.float64 if double else np.float32
    space.seed(0)
    rows = gym.vector.utils.concatenate(
        space, [space.sample() for _ in range(7)], gym.vector.utils.create_empty_array(space, 7)
    )
    read, _ = ObservationReader(space, ACTIONS, True).read(rows, {})
    read = tree_map(lambda leaf: leaf.astype(floats) if leaf.dtype.kind == "f" else leaf, read)
    twin = numpy_twin(encoder, Drawing(7, np.random.default_rng(0)))
    expected = encoder(tree_map(torch.from_numpy, read))
    assert expected.shape == (7, encoder.num_features)
    np.testing.assert_array_equal(run_layers(twin, read), expected.numpy())
    assert run_layers(twin, read).dtype == floats


class Recording(Spaces):
    """Keeps what it showed and which actions it got."""

    def __init__(self, observations, log):
        super().__init__(actions=ACTIONS)
        self.observation_space, self.log = observations, log

    def reset(self, **settings):
        self.shown, info = super().reset(**settings)
        return deepcopy(self.shown), info

    def step(self, action):
        self.log.append((deepcopy(self.shown), action))
        return super().step(action)


@pytest.mark.parametrize("name", SPACES)
def test_observations_are_learnt_from_and_acted_on(name):
    log = []
    torch.manual_seed(0)
    agent = Reinforce(lambda: Recording(SPACES[name], log), MLPPolicy)
    trainer(2).fit(agent, EpisodeDataModule(num_envs=3))
    assert agent.metrics["policy_lag"] < 1e-5
    log.clear()
    agent.policy.eval()
    sampler = EpisodeSampler(agent.env.make_vector(1), 20)
    episodes = sampler.sample(make_actor(agent.policy, ACTIONS, greedy=True), 0)
    assert episodes.actions.tolist() == [action for _, action in log] == [agent.act(shown) for shown, _ in log]
