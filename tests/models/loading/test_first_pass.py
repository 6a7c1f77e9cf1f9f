"""Networks as users have them: structured outputs, other precisions, one channel, sizes, and normalisations."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.errors import InputError, NetworkError
from models.loading import build_network, load_checkpoint, load_network, save_checkpoint
from models.loading.specification import NetworkSpec
from models.normalization import per_channel
from models.residuals import WithStatistics

FILE = '''
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn


class Output(OrderedDict):
    """As the outputs of transformers: a dictionary with attributes."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__.update(items)


@dataclass
class Record:
    features: torch.Tensor
    logits: torch.Tensor


Pair = namedtuple("Pair", ["features", "logits"])


class Net(nn.Module):
    def __init__(self, channels=3, wrap=lambda logits, features: logits, side=None, cast=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * (side or 1) ** 2, 5)
        self.wrap, self.side, self.cast = wrap, side, cast

    def forward(self, x):
        x = self.stem(x if self.cast is None else x.to(self.cast))
        x = x + self.block(x).relu()
        x = x.flatten(1) if self.side else x.mean((2, 3))
        return self.wrap(self.head(x), x)


def plain(): return Net()
def mapping(): return Net(wrap=lambda logits, x: {"features": x, "logits": logits})
def attributes(): return Net(wrap=lambda logits, x: Output(logits=logits, hidden=(x, x)))
def record(): return Net(wrap=lambda logits, x: Record(x, logits))
def pair(): return Net(wrap=lambda logits, x: Pair(x, logits))
def alone(): return Net(wrap=lambda logits, x: (logits,))
def first(): return Net(wrap=lambda logits, x: [logits, x[:, :, None, None]])
def unclear(): return Net(wrap=lambda logits, x: (x, logits))
def unnamed(): return Net(wrap=lambda logits, x: {"out": logits})
def half(): return Net().half()
def bfloat16(): return Net().bfloat16()
def double(): return Net().double()
def mixed(): return Net(cast=torch.half)
def grey(): return Net(channels=1)
def four(): return Net(channels=4)
def sized(): return Net(side=28)
def grey_sized(): return Net(channels=1, side=28)
'''
SHAPE = (3, 16, 16)


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / "network.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def images(seed: int) -> Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mapping", "dict"), ("attributes", "Output"), ("record", "Record"), ("pair", "Pair"), ("alone", "tuple"),
     ("first", "list")],
)  # fmt: skip
def test_logits_are_taken_from_a_structure(name: str, kind: str, network_file: Path, images: Tensor) -> None:
    plain = load_network(f"{network_file}:plain", image_shape=SHAPE)
    loaded = load_network(f"{network_file}:{name}", image_shape=SHAPE)
    assert [note.partition(": ")[2] for note in loaded.notes] == [f"the network returns {kind}; its logits are used"]
    assert plain.notes == ()
    assert loaded.network.state_dict().keys() == plain.network.state_dict().keys()
    with torch.no_grad():
        expected = plain.network(images)
        statistics = WithStatistics(loaded.network, image_shape=SHAPE)
        assert statistics.why_not_rewritten is None
        assert torch.equal(loaded.network(images), expected)
        assert torch.equal(statistics(images)[0], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unclear", r"got tuple of \(2, 4\), \(2, 5\); return the logits alone"),
        ("unnamed", "got dict with the keys out; return the logits, alone or as `logits`"),
        ("mixed", "its code computes in another precision than float32; remove half"),
        ("four", "its first convolution takes 4 channels"),
        ("sized", "takes square images with a side of 28 pixels"),
        ("grey_sized", "takes square images with a side of 28 pixels"),
    ],
)
def test_the_cause_of_a_failed_pass_is_named(name: str, message: str, network_file: Path) -> None:
    with pytest.raises(NetworkError, match=message):
        load_network(f"{network_file}:{name}", image_shape=SHAPE)


@pytest.mark.parametrize("name", ["half", "bfloat16", "double"])
def test_weights_of_other_precisions_are_converted(name: str, network_file: Path, images: Tensor) -> None:
    loaded = load_network(f"{network_file}:{name}", image_shape=SHAPE)
    dtype = {"half": "float16", "double": "float64"}.get(name, name)
    assert [note.partition(": ")[2] for note in loaded.notes] == [f"weights in {dtype} are converted to float32"]
    again = build_network(loaded.spec, network_file=f"{network_file}:{name}")
    again.load_state_dict(loaded.network.state_dict(), strict=True)
    plain = load_network(f"{network_file}:plain", image_shape=SHAPE).network
    with torch.no_grad():
        logits = loaded.network(images)
        assert logits.dtype == torch.float32
        assert torch.equal(again(images), logits)
        torch.testing.assert_close(logits, plain(images), rtol=0.1, atol=0.05)


def test_a_network_with_one_channel_gets_the_luma(network_file: Path, images: Tensor, tmp_path: Path) -> None:
    loaded = load_network(f"{network_file}:grey", mean=[0.25], std=[0.5], image_shape=SHAPE)
    assert any("takes one channel" in note for note in loaded.notes)
    assert (loaded.spec.grey, loaded.spec.image_shape) == (True, SHAPE)
    inside = copy.deepcopy(loaded.network.network)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    save_checkpoint(tmp_path / "run", loaded.network, loaded.spec, ("a", "b", "c", "d", "e"), {})
    again = load_checkpoint(tmp_path / "run", network_file=f"{network_file}:grey")
    statistics = WithStatistics(loaded.network, image_shape=SHAPE)
    assert statistics.why_not_rewritten is None
    with torch.no_grad():
        logits = loaded.network(images)
        torch.testing.assert_close(logits, inside((luma - 0.25) / 0.5))
        assert torch.equal(again.network(images), logits)
        assert torch.equal(statistics(images)[0], logits)
        repeated = images[:, :1].expand(-1, 3, -1, -1)  # a grey image, as data sets with one channel are read
        torch.testing.assert_close(loaded.network(repeated), inside((images[:, :1] - 0.25) / 0.5))


def test_a_size_that_works_is_accepted(network_file: Path) -> None:
    for name in ("sized", "grey_sized"):
        assert load_network(f"{network_file}:{name}", image_shape=(3, 28, 28)).spec.num_classes == 5


def test_specifications_hold_grey_only_for_one_channel(network_file: Path) -> None:
    for name, grey in (("plain", False), ("grey", True)):
        spec = load_network(f"{network_file}:{name}", image_shape=SHAPE).spec
        assert ("grey" in spec.to_json()) == grey
        assert NetworkSpec.from_json(spec.to_json()) == spec
    with pytest.raises(InputError, match="grey"):
        NetworkSpec.from_json({**spec.to_json(), "grey": 1})


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"mean 0\.485,0\.456,0\.406 and std 0\.229,0\.224,0\.225"),
        ((104.0, 117.0, 123.0), (1.0,) * 3, r"std 0\.003922,"),
        ((33.3,), None, r"divide them by 255: mean 0\.1306"),
        ((0.5, 0.5), (0.5,) * 3, r"one number or three \(R, G, B\) as mean, got 2"),
        ((0.5,) * 3, (0.5, 0.0, 0.5), "positive numbers as std"),
        ((float("nan"),) * 3, (0.5,) * 3, "finite numbers as mean"),
    ],
)
def test_normalisations_of_other_pixels_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_network("resnet8", mean=mean, std=std)


def test_one_number_stands_for_all_channels() -> None:
    assert per_channel([0.5], None) == ((0.5,) * 3, None)
    assert per_channel(None, (0.1, 0.2, 0.3)) == (None, (0.1, 0.2, 0.3))
